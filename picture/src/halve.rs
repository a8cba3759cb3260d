//! Half of a picture: what a worker does to one that has more pixels than it searches.

use image::{DynamicImage, ImageBuffer, Pixel};

/// A picture of half the size: each pixel is the rounded mean of four, an odd last column or row is left out, no side
/// becomes 0. Gray stays gray, all else becomes RGB, 8 bits a value. In the memory of `picture`: a second large one would
/// not find room on a small computer.
pub fn halved(picture: DynamicImage) -> DynamicImage {
    match picture {
        DynamicImage::ImageLuma8(gray) => halve(gray).into(),
        picture => halve(picture.into_rgb8()).into(),
    }
}

fn halve<P: Pixel<Subpixel = u8>>(picture: ImageBuffer<P, Vec<u8>>) -> ImageBuffer<P, Vec<u8>> {
    let (width_px, height_px) = picture.dimensions();
    if width_px == 0 || height_px == 0 {
        return picture;
    }
    let pixel_bytes = usize::from(P::CHANNEL_COUNT);
    let row_bytes = width_px as usize * pixel_bytes;
    let right = if width_px > 1 { pixel_bytes } else { 0 };
    let below = if height_px > 1 { row_bytes } else { 0 };
    let (half_width_px, half_height_px) = ((width_px / 2).max(1), (height_px / 2).max(1));
    let mut values = picture.into_raw();
    // It never gets ahead of what is still to be read.
    let mut to = 0;
    for y in 0..half_height_px as usize {
        for x in 0..half_width_px as usize {
            let from = 2 * y * row_bytes + 2 * x * pixel_bytes;
            for at in from..from + pixel_bytes {
                let value = |offset: usize| u16::from(values[at + offset]);
                let sum = value(0) + value(right) + value(below) + value(right + below);
                values[to] = ((sum + 2) / 4) as u8;
                to += 1;
            }
        }
    }
    values.truncate(to);
    values.shrink_to_fit();
    ImageBuffer::from_raw(half_width_px, half_height_px, values)
        .unwrap_or_else(|| unreachable!("as many values as it has pixels"))
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, RgbImage, RgbaImage};

    use super::*;

    #[test]
    fn each_pixel_of_the_half_is_the_rounded_mean_of_its_four() {
        let picture = RgbImage::from_fn(9, 6, |x, y| image::Rgb([(x * 25) as u8, (y * 40) as u8, (x * y * 5) as u8]));
        let half = halved(picture.clone().into()).into_rgb8();
        assert_eq!(half.dimensions(), (4, 3), "the odd column is left out");
        for (x, y, pixel) in half.enumerate_pixels() {
            let four =
                [(0, 0), (1, 0), (0, 1), (1, 1)].map(|(right, below)| picture.get_pixel(2 * x + right, 2 * y + below));
            let mean = [0, 1, 2].map(|channel| four.iter().map(|pixel| u32::from(pixel[channel])).sum::<u32>());
            assert_eq!(pixel.0.map(u32::from), mean.map(|sum| (sum + 2) / 4), "{x}, {y}");
        }
    }

    #[test]
    fn gray_stays_gray_and_a_single_row_or_column_stays_one() {
        let gray = |width, height, values: &[u8]| {
            DynamicImage::from(GrayImage::from_raw(width, height, values.to_vec()).expect("a value a pixel"))
        };
        assert_eq!(halved(gray(4, 1, &[10, 20, 31, 40])), gray(2, 1, &[15, 36]));
        assert_eq!(halved(gray(1, 3, &[10, 20, 99])), gray(1, 1, &[15]));
        let other = halved(RgbaImage::from_pixel(2, 2, image::Rgba([7, 8, 9, 255])).into());
        assert_eq!(other, DynamicImage::from(RgbImage::from_pixel(1, 1, image::Rgb([7, 8, 9]))));
        let nothing = DynamicImage::from(RgbImage::new(0, 0));
        assert_eq!(halved(nothing.clone()), nothing);
    }
}
