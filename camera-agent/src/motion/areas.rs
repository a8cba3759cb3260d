//! Cells in which something moved, as a few rectangles of the picture.

use microlambda_wire::{AREAS_MAX, Area, Areas};

use crate::luma::CELL_PIXELS;

/// More groups of cells than this are not told apart: leaves in the wind.
const GROUPS_MAX: usize = 32;

/// When something moved in a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moved {
    /// In none of the last pictures.
    Not,
    /// In one of the last pictures.
    Lately,
    /// In the newest picture.
    Now,
}

/// A rectangle of cells, both ends inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Group {
    columns: (usize, usize),
    rows: (usize, usize),
}

impl Group {
    fn around(&self, other: &Self) -> Self {
        let both = |a: (usize, usize), b: (usize, usize)| (a.0.min(b.0), a.1.max(b.1));
        Self { columns: both(self.columns, other.columns), rows: both(self.rows, other.rows) }
    }

    fn cells(&self) -> usize {
        (self.columns.1 - self.columns.0 + 1) * (self.rows.1 - self.rows.0 + 1)
    }

    /// How many cells more it takes to have both in one.
    fn cost_of_joining(&self, other: &Self) -> usize {
        self.around(other).cells().saturating_sub(self.cells() + other.cells())
    }

    fn area(&self) -> Option<Area> {
        let pixels = |cells: usize| u16::try_from(cells.checked_mul(CELL_PIXELS as usize)?).ok();
        Some(Area {
            left_px: pixels(self.columns.0)?,
            top_px: pixels(self.rows.0)?,
            width_px: pixels(self.columns.1 - self.columns.0 + 1)?,
            height_px: pixels(self.rows.1 - self.rows.0 + 1)?,
        })
    }
}

/// The eight cells around a cell of a grid of `count`, as far as there are.
pub(super) fn neighbours(at: usize, columns: usize, count: usize) -> impl Iterator<Item = usize> {
    let (row, column) = (at / columns, at % columns);
    let rows = row.saturating_sub(1)..=row + 1;
    rows.flat_map(move |row| (column.saturating_sub(1)..=(column + 1).min(columns - 1)).map(move |x| row * columns + x))
        .filter(move |&other| other != at && other < count)
}

/// Rectangles around all cells in which something moves, and those in which it has stopped: where it moved lately and now moves right beside, it has
/// gone on. With them which cells lie in one; `None` if there is none, or the picture is too large to say it.
pub(super) fn around(moved: &[Moved], columns: usize) -> Option<(Areas, Vec<bool>)> {
    let mut groups = groups(moved, columns);
    if groups.len() > GROUPS_MAX {
        let all = groups.iter().skip(1).fold(groups[0], |all, group| all.around(group));
        groups = vec![all];
    }
    while groups.len() > AREAS_MAX {
        let pairs = (0..groups.len()).flat_map(|a| (a + 1..groups.len()).map(move |b| (a, b)));
        let (a, b) = pairs.min_by_key(|&(a, b)| groups[a].cost_of_joining(&groups[b]))?;
        let other = groups.swap_remove(b);
        groups[a] = groups[a].around(&other);
    }
    let mut inside = vec![false; moved.len()];
    for group in &groups {
        for row in group.rows.0..=group.rows.1 {
            inside[row * columns..][group.columns.0..=group.columns.1].fill(true);
        }
    }
    let areas = groups.iter().map(Group::area).collect::<Option<Vec<Area>>>()?;
    Some((Areas::try_from(areas).ok()?, inside))
}

/// Cells that touch each other, group by group: of each those that move, or all if none does.
fn groups(moved: &[Moved], columns: usize) -> Vec<Group> {
    let mut open: Vec<bool> = moved.iter().map(|moved| *moved != Moved::Not).collect();
    let mut groups = Vec::new();
    for first in 0..moved.len() {
        if !std::mem::take(&mut open[first]) {
            continue;
        }
        let (mut cells, mut at) = (vec![first], 0);
        while let Some(&cell) = cells.get(at) {
            cells.extend(neighbours(cell, columns, moved.len()).filter(|&other| std::mem::take(&mut open[other])));
            at += 1;
        }
        if cells.iter().any(|&cell| moved[cell] == Moved::Now) {
            cells.retain(|&cell| moved[cell] == Moved::Now);
        }
        let at_cell = |&at: &usize| Group { columns: (at % columns, at % columns), rows: (at / columns, at / columns) };
        groups.extend(cells.iter().map(at_cell).reduce(|all, cell| all.around(&cell)));
    }
    groups
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COLUMNS: usize = 20;

    fn cells(now: &[(usize, usize)], lately: &[(usize, usize)]) -> Vec<Moved> {
        let at = |at: usize| match (at % COLUMNS, at / COLUMNS) {
            cell if now.contains(&cell) => Moved::Now,
            cell if lately.contains(&cell) => Moved::Lately,
            _ => Moved::Not,
        };
        (0..COLUMNS * 12).map(at).collect()
    }

    fn sides(now: &[(usize, usize)], lately: &[(usize, usize)]) -> Vec<[u16; 4]> {
        let (areas, _) = around(&cells(now, lately), COLUMNS).unwrap();
        areas.iter().map(<[u16; 4]>::from).collect()
    }

    #[test]
    fn cells_that_touch_are_one_area_and_others_are_not() {
        assert_eq!(around(&cells(&[], &[]), COLUMNS), None);
        assert_eq!(sides(&[(0, 0)], &[]), [[0, 0, 16, 16]]);
        assert_eq!(sides(&[(2, 3), (3, 4), (2, 5)], &[]), [[32, 48, 32, 48]]);
        // The last of a row and the first of the next do not touch.
        assert_eq!(sides(&[(COLUMNS - 1, 1), (0, 2)], &[]).len(), 2);
    }

    #[test]
    fn who_has_stopped_is_looked_at_and_not_the_way_that_somebody_came() {
        assert_eq!(sides(&[], &[(4, 3), (5, 3)]), [[64, 48, 32, 16]]);
        assert_eq!(sides(&[(6, 3), (7, 3)], &[(4, 3), (5, 3)]), [[96, 48, 32, 16]]);
        assert_eq!(sides(&[(9, 3)], &[(4, 3), (5, 3)]), [[64, 48, 32, 16], [144, 48, 16, 16]]);
    }

    #[test]
    fn a_picture_too_large_for_its_sides_to_be_said_has_no_areas() {
        let columns = 5_000;
        let mut moved = vec![Moved::Not; columns * 2];
        moved[columns - 1] = Moved::Now;
        assert_eq!(around(&moved, columns), None);
    }

    proptest! {
        #[test]
        fn whatever_moves_lies_inside(
            moved in prop::collection::vec(prop_oneof![18 => Just(Moved::Not), 1 => Just(Moved::Lately), 1 => Just(Moved::Now)], COLUMNS * 12),
            all in any::<bool>(),
        ) {
            let moved = if all { vec![Moved::Now; moved.len()] } else { moved };
            match around(&moved, COLUMNS) {
                None => prop_assert!(moved.iter().all(|moved| *moved == Moved::Not)),
                Some((areas, inside)) => for (at, moved) in moved.iter().enumerate() {
                    let (x, y) = ((at % COLUMNS * 16) as u16, (at / COLUMNS * 16) as u16);
                    let is_in = areas.iter().any(|area| {
                        (area.left_px..area.left_px + area.width_px).contains(&x) && (area.top_px..area.top_px + area.height_px).contains(&y)
                    });
                    prop_assert!(is_in == inside[at] && (is_in || *moved != Moved::Now));
                }
            }
        }
    }
}
