//! Taking pictures with v4l, the crate below nokhwa, from cameras that nokhwa does not open: gray ones, and those whose driver
//! tells no rate of whole frames a second (analog video: 30000 in 1001 s).

use std::io::ErrorKind;

use microlambda_runtime::monotonic_us;
use v4l::buffer::{Flags, Type};
use v4l::io::traits::CaptureStream as _;
use v4l::prelude::MmapStream;

use super::device::{Capture, Raw, SILENCE, silent, taken_us};
use super::{Offer, Setting};

/// Buffers that the driver fills in turn while a picture is worked on.
const BUFFERS: u32 = 4;

/// The mapped buffers of an open device.
pub(super) struct ThroughV4l {
    stream: MmapStream<'static>,
    format: Offer,
    line_bytes: usize,
}

impl ThroughV4l {
    /// Opens the camera and asks for buffers; what the driver made of the setting.
    pub(super) fn start(setting: &Setting) -> std::io::Result<(Self, Offer)> {
        let (device, set) = setting.apply(setting.rate)?;
        let mut stream = MmapStream::with_buffers(&device, Type::VideoCapture, BUFFERS)?;
        stream.set_timeout(SILENCE);
        Ok((Self { stream, format: set.format, line_bytes: set.line_bytes }, set.format))
    }
}

impl Capture for ThroughV4l {
    fn capture(&mut self, take: &mut dyn FnMut(u64, &Raw<'_>)) -> Result<(), String> {
        let (buffer, meta) = self.stream.next().map_err(|error| match error.kind() {
            ErrorKind::TimedOut => silent(),
            _ => error.to_string(),
        })?;
        let filled = (meta.bytesused as usize).min(buffer.len());
        let Offer { layout, width_px, height_px, .. } = self.format;
        let raw = Raw {
            bytes: &buffer[..filled],
            layout,
            width_px,
            height_px,
            line_bytes: self.line_bytes,
            damaged: meta.flags.contains(Flags::ERROR),
        };
        let part = |value: i64| u64::try_from(value).unwrap_or(0);
        let stamp_us = part(meta.timestamp.sec) * 1_000_000 + part(meta.timestamp.usec);
        take(taken_us(meta.flags.contains(Flags::TIMESTAMP_MONOTONIC).then_some(stamp_us), monotonic_us()), &raw);
        Ok(())
    }
}
