//! How a node asks a camera for frames: in time, and not twice.

use std::collections::VecDeque;
use std::rc::Rc;

use microlambda_runtime::Message;
use microlambda_tests::sim::bench::Bench;
use microlambda_tests::sim::camera::SimCamera;
use microlambda_tests::{name, sim};
use microlambda_wire::{CameraHead, ChainClass, Topic, to_payload};

/// A camera, and its node at the other end of a way that takes time; its worker needs none.
struct Link {
    bench: Bench,
    camera: SimCamera,
    /// What is on its way to the node, and when it arrives, µs.
    coming: VecDeque<(u64, Message)>,
    way_us: u64,
    frames_sent: usize,
    ended: usize,
}

impl Link {
    fn new(way_us: u64, frames: u64) -> Self {
        let camera = SimCamera::new(0, ChainClass::Live, frames, 100, None);
        Self { bench: Bench::new(), camera, coming: VecDeque::new(), way_us, frames_sent: 0, ended: 0 }
    }

    fn now_us(&self) -> u64 {
        self.bench.io.borrow().local_us
    }

    /// Messages go their ways for so long.
    fn pass_us(&mut self, us: u64) {
        let end_us = self.now_us() + us;
        while self.now_us() < end_us {
            self.bench.pass_us(10_000);
            let now_us = self.now_us();
            let said: Vec<Rc<Message>> = self.bench.said.drain(..).collect();
            for want in said.iter().filter(|message| message.topic.ends_with("/want")) {
                self.camera.on_message(want, now_us);
            }
            let (mut messages, _) = self.camera.tick(now_us);
            // A head tells of a frame before the frame is there.
            messages.sort_by_key(|message| !message.topic.ends_with("/head"));
            for message in messages {
                let is_frame = message.topic.contains("/frame/");
                self.frames_sent += usize::from(is_frame);
                let after_us = if is_frame { self.way_us } else { 0 };
                // One after the other, as on a wire that carries one at a time.
                let last_us = self.coming.iter().map(|(at_us, _)| *at_us).max().filter(|_| is_frame).unwrap_or(now_us);
                self.coming.push_back((last_us + after_us, message));
            }
            while let Some(at) = self.coming.iter().position(|(at_us, _)| *at_us <= now_us) {
                if let Some((_, message)) = self.coming.remove(at) {
                    self.bench.hears(&message);
                }
                if self.bench.starts() > self.ended {
                    self.ended += 1;
                    self.bench.end_step();
                }
            }
        }
    }
}

#[test]
fn a_frame_that_follows_its_head_is_sent_once_however_long_nothing_happened_before() {
    let mut link = Link::new(20_000, 10);
    for _ in 0..10 {
        link.camera.take_picture(link.now_us());
        link.pass_us(1_000_000);
    }
    assert_eq!((link.ended, link.frames_sent), (10, 10));
}

#[test]
fn over_a_slow_link_frames_are_not_asked_for_again_and_again_while_they_are_on_their_way() {
    let mut link = Link::new(900_000, 20);
    for _ in 0..20 {
        link.camera.take_picture(link.now_us());
    }
    link.pass_us(60_000_000);
    assert_eq!(link.ended, 20, "all are analysed");
    assert!(link.frames_sent <= 24, "{} frames were sent for 20: each is 0.9 s on its way", link.frames_sent);
}

/// Claims said from now on, over so many seconds.
fn claims(bench: &mut Bench, seconds: u64) -> usize {
    bench.said.clear();
    (0..seconds * 10).for_each(|_| bench.pass_us(100_000));
    bench.said.iter().filter(|message| message.topic.ends_with("/claim")).count()
}

#[test]
fn a_camera_that_is_silent_or_was_taken_off_the_site_costs_no_further_try_until_it_speaks() {
    let mut bench = Bench::new();
    let topic = Topic::CameraHead { camera: name("gate") }.build(&sim::prefix());
    let (camera, chain) = (name("gate"), name("gate-1"));
    let head = CameraHead { camera, chain, class: ChainClass::Live, oldest: 0, next: 50, end: None };
    let says = |bench: &mut Bench, payload: Vec<u8>| {
        bench.hears(&Message { topic: topic.clone(), payload, retain: true });
    };
    let head = to_payload(&head).expect("a head");
    says(&mut bench, head.clone());
    assert!(claims(&mut bench, 14) > 0, "it may answer");
    claims(&mut bench, 10);
    assert_eq!(claims(&mut bench, 120), 0, "it is off");
    let status = bench.status();
    assert!(status.trouble.contains("camera gate is silent, and 50 frames"), "{}", status.trouble);
    assert_eq!(status.chains[0].waits_for, "camera gate, which is silent");
    says(&mut bench, head);
    assert!(claims(&mut bench, 10) > 0, "it is back");
    says(&mut bench, Vec::new());
    claims(&mut bench, 1);
    assert_eq!(claims(&mut bench, 10), 0, "it was taken off");
}
