//! The way to a guest that has to be connected to, again after each resume.

use super::{GUEST, IN, Shim, VSOCK};
use crate::sys;
use crate::vsock::Progress;

impl Shim {
    pub(super) fn connect_guest(&mut self) {
        let Some(connector) = &mut self.guest.connector else { return };
        if self.guest.stream.is_some() || self.guest.broken {
            return;
        }
        if matches!(connector.attempt(), Progress::Asked) {
            let watched = connector.stream().map(|stream| self.epoll.add(stream, VSOCK, IN));
            if !matches!(watched, Some(Ok(()))) {
                connector.take();
                connector.retry();
            }
        }
    }

    pub(super) fn on_vsock_wake(&mut self) {
        if let Some(connector) = &self.guest.connector {
            sys::drain(&connector.watch);
            sys::drain(&connector.timer);
        }
        self.connect_guest();
    }

    pub(super) fn on_vsock_answer(&mut self) {
        let Some(connector) = &mut self.guest.connector else { return };
        if !matches!(connector.on_readable(), Progress::Connected) {
            return;
        }
        let Some(stream) = connector.take() else { return };
        if self.epoll.modify(&stream, GUEST, IN).is_ok() {
            self.guest_interest = IN;
            self.guest.stream = Some(stream);
        }
    }
}
