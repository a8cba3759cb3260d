use proptest::prelude::*;

use super::*;
use crate::testing::File;

fn file(write: impl FnOnce(&mut File)) -> Vec<u8> {
    let mut file = File::default();
    write(&mut file);
    file.bytes
}

proptest! {
    #[test]
    fn integers_are_read_as_they_were_written(value in -i64::MAX..=i64::MAX) {
        let bytes = file(|file| {
            file.ints([value]);
        });
        let mut archive = Archive::new(&bytes);
        prop_assert_eq!(archive.int(), Ok(value));
        prop_assert_eq!(archive.end(), Ok(()));
    }

    #[test]
    fn numbers_are_read_as_they_were_written(value in -1e6f32..1e6) {
        let bytes = file(|file| {
            file.number(value);
        });
        prop_assert_eq!(Archive::new(&bytes).number().map(|number| number as f32), Ok(value));
    }

    #[test]
    fn no_bytes_make_the_reader_fail_otherwise_than_by_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = Archive::new(&bytes).int();
        let _ = Archive::new(&bytes).number();
        let _ = Archive::new(&bytes).text();
        let _ = Archive::new(&bytes).flag();
        let _ = Archive::new(&bytes).alias();
        let _ = Archive::new(&bytes).skip_tensor();
        let _ = Archive::new(&bytes).tensor([1, 2, 1, 1], "a tensor");
    }
}

#[test]
fn integers_that_dlib_does_not_write_are_refused() {
    for bytes in [&[0u8][..], &[0x80, 0], &[9; 10], &[0x11, 1], &[8, 0, 0, 0, 0, 0, 0, 0, 0x80], &[2, 1]] {
        assert!(Archive::new(bytes).int().is_err(), "{bytes:?}");
    }
}

#[test]
fn a_tensor_whose_size_overflows_or_exceeds_the_file_is_refused() {
    for shape in [[i64::MAX, 1, 1, 1], [1 << 32, 1 << 32, 1, 1], [i64::MAX; 4], [3, 1, 1, 1]] {
        let bytes = file(|file| {
            file.ints([2]).ints(shape).ints([1, 2, 3]);
        });
        assert!(Archive::new(&bytes).skip_tensor().is_err(), "{shape:?}");
    }
}

#[test]
fn numbers_that_are_not_finite_are_refused() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let bytes = file(|file| {
            file.tensor([2, 1, 1, 1], &[1.0, value]);
        });
        assert!(Archive::new(&bytes).tensor([2, 1, 1, 1], "a tensor").is_err(), "{value}");
    }
    // dlib's sign for infinity.
    let bytes = file(|file| {
        file.ints([0, 32_000]);
    });
    assert!(Archive::new(&bytes).number().is_err());
}
