//! How much room the disk of a node's database has left.

use std::path::Path;

/// A disk is short of room below this share of its size, per cent: months before a database that grows all the time fills a card.
const SHORT_PERCENT: u64 = 10;
/// But never above so many bytes free, which last for months on a large disk too.
const SHORT_BYTES_MAX: u64 = 2_000_000_000;

/// The room on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// What an ordinary user's files may still take, bytes.
    pub free_bytes: u64,
    /// What the file system holds in all, bytes.
    pub size_bytes: u64,
}

impl Room {
    /// Of the disk that holds `path`.
    ///
    /// # Errors
    /// The system's answer.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        let disk = rustix::fs::statvfs(path)?;
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        Ok(Self { free_bytes: bytes(disk.f_bavail), size_bytes: bytes(disk.f_blocks) })
    }

    /// Free room in MB.
    pub fn free_mb(&self) -> u64 {
        self.free_bytes / 1_000_000
    }

    /// That it will not do for long, for people; nothing while it will.
    pub fn trouble(&self) -> Option<String> {
        let short_below = (self.size_bytes / 100 * SHORT_PERCENT).min(SHORT_BYTES_MAX);
        (self.free_bytes < short_below).then(|| {
            format!(
                "the disk of the database has {} MB left, and records of pictures take more and more: make room on it, or use a larger one, \
                 before it is full and this node stops",
                self.free_mb()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_short_of_room_below_a_tenth_of_a_card_and_two_gigabytes_of_anything_larger() {
        let is_short = |free_mb: u64, size_mb: u64| {
            let room = Room { free_bytes: free_mb * 1_000_000, size_bytes: size_mb * 1_000_000 };
            room.trouble().is_some()
        };
        assert!(is_short(399, 4_000) && !is_short(400, 4_000));
        assert!(is_short(1_999, 1_000_000) && !is_short(2_000, 1_000_000));
    }

    #[test]
    fn the_room_of_a_real_disk_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let room = Room::of(folder.path()).unwrap();
        assert!(room.free_bytes <= room.size_bytes && room.size_bytes > 0);
    }
}
