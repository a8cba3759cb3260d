//! Cameras: connected, taking pictures, served; and what they have given out.

use std::rc::Rc;

use microlambda_runtime::Message;
use microlambda_wire::{RecordNote, Topic, from_payload, read_frame_meta};

use super::{Happening, Site};
use crate::sim::invariants::{self, Checked};

impl Site {
    pub(super) fn start_camera(&mut self, index: usize) {
        let now_us = self.now_us;
        let slot = &mut self.cameras[index];
        slot.up = true;
        slot.camera.restart(now_us);
        self.note(|| format!("camera-{index} starts"));
        self.after(3_000, Happening::CameraConnect(index));
    }

    pub(super) fn connect_camera(&mut self, index: usize) -> Checked {
        let now_us = self.now_us;
        let slot = &mut self.cameras[index];
        if !self.broker_up || !slot.up || self.bus.clients[slot.client].connected {
            return Ok(());
        }
        slot.camera.on_connected(now_us);
        let client = slot.client;
        let retained = self.bus.connect(client, None, now_us, &mut self.random);
        self.schedule(retained);
        self.tick_camera(index)
    }

    pub(super) fn take_picture(&mut self, index: usize) -> Checked {
        let now_us = self.now_us;
        let slot = &mut self.cameras[index];
        let pause_us = slot.pause_us;
        if slot.up && !slot.camera.has_ended() {
            slot.camera.take_picture(now_us);
            invariants::bounds_hold(0, slot.camera.held(), slot.camera.frames_max())?;
            self.tick_camera(index)?;
        }
        if !self.cameras[index].camera.has_ended() {
            self.after(pause_us, Happening::TakePicture(index));
        }
        Ok(())
    }

    /// Only the alarm that was set last counts.
    pub(super) fn wake_camera(&mut self, index: usize, wake: u64) -> Checked {
        if self.cameras[index].wake == wake { self.tick_camera(index) } else { Ok(()) }
    }

    pub(super) fn tick_camera(&mut self, index: usize) -> Checked {
        let now_us = self.now_us;
        let slot = &mut self.cameras[index];
        if !slot.up {
            return Ok(());
        }
        if !self.bus.clients[slot.client].connected {
            return Ok(());
        }
        let (messages, wake_us) = slot.camera.tick(now_us);
        if let Some(release) = slot.camera.take_release() {
            self.memory.what_is_freed_is_held_twice(&slot.camera.chain, release)?;
        }
        slot.wake += 1;
        let wake = slot.wake;
        self.at(wake_us, Happening::CameraWake(index, wake));
        for message in messages {
            self.given_out(index, &message)?;
            self.publish(&Rc::new(message));
        }
        Ok(())
    }

    /// Notes a record that a camera sends.
    pub(super) fn given_out(&mut self, index: usize, message: &Message) -> Checked {
        let (chain, sequence, record) = match Topic::parse(&crate::sim::prefix(), &message.topic) {
            Ok(Topic::CameraFrame { .. }) => {
                let Ok(meta) = read_frame_meta(&message.payload) else { return Ok(()) };
                (meta.chain.clone(), meta.sequence, meta.into_record())
            }
            Ok(Topic::CameraRecord { .. }) => {
                let Ok(note) = from_payload::<RecordNote>(&message.payload) else { return Ok(()) };
                (note.chain, note.sequence, note.record)
            }
            _ => return Ok(()),
        };
        let records = &mut self.cameras[index].records;
        if let Err(place) = records.binary_search_by_key(&sequence, |(at, _)| *at) {
            records.insert(place, (sequence, record.clone()));
        }
        self.given_out.no_number_is_used_twice(&chain, sequence, &record)
    }
}
