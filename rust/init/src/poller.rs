//! epoll, edge-triggered: an event says that something changed, who cares remembers it.
//!
//! Level-triggered polling would spin on a descriptor that stays readable or hung up while its reader is held back
//! by flow control.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use crate::sys;

/// Events taken per call.
const EVENTS_MAX: usize = 64;

/// What a descriptor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    Channel,
    Listener,
    Signals,
    /// Output or terminal of a stream: 0 is the main process; `index` as in its list of sources.
    Source {
        stream: u32,
        index: u8,
    },
    Stdin {
        stream: u32,
    },
}

impl Token {
    fn pack(self) -> u64 {
        match self {
            Self::Channel => 0,
            Self::Listener => 1 << 40,
            Self::Signals => 2 << 40,
            Self::Source { stream, index } => 3 << 40 | u64::from(index) << 32 | u64::from(stream),
            Self::Stdin { stream } => 4 << 40 | u64::from(stream),
        }
    }

    fn unpack(data: u64) -> Self {
        let stream = data as u32;
        match data >> 40 {
            0 => Self::Channel,
            1 => Self::Listener,
            2 => Self::Signals,
            3 => Self::Source { stream, index: (data >> 32) as u8 },
            _ => Self::Stdin { stream },
        }
    }
}

/// What became possible.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    pub token: Token,
    pub readable: bool,
    pub writable: bool,
}

pub struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    pub fn new() -> io::Result<Self> {
        // SAFETY: no memory is involved.
        Ok(Self { epoll: sys::owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })? })
    }

    /// Watches a descriptor for both directions until its last copy is closed.
    pub fn add(&self, fd: &impl AsFd, token: Token) -> io::Result<()> {
        let interest = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        let mut event = libc::epoll_event { events: interest as u32, u64: token.pack() };
        let (epoll, fd) = (self.epoll.as_raw_fd(), fd.as_fd().as_raw_fd());
        // SAFETY: the event is initialised and copied by the kernel.
        sys::check(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) }).map(drop)
    }

    /// Waits for events, for ever without a timeout.
    pub fn wait(&self, timeout: Option<Duration>) -> Vec<Event> {
        // Rounded up: a deadline is never found a little too early, over and over.
        let timeout_ms =
            timeout.map_or(-1, |left| left.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i32);
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX];
        // SAFETY: room for EVENTS_MAX events.
        let count = unsafe {
            libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), EVENTS_MAX as i32, timeout_ms)
        };
        let count = usize::try_from(count).unwrap_or(0);
        events[..count].iter().map(to_event).collect()
    }
}

fn to_event(event: &libc::epoll_event) -> Event {
    let has = |mask: i32| event.events & mask as u32 != 0;
    let ended = has(libc::EPOLLHUP | libc::EPOLLERR | libc::EPOLLRDHUP);
    Event {
        token: Token::unpack(event.u64),
        readable: has(libc::EPOLLIN) || ended,
        writable: has(libc::EPOLLOUT) || has(libc::EPOLLHUP | libc::EPOLLERR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_packing() {
        for token in [
            Token::Channel,
            Token::Listener,
            Token::Signals,
            Token::Source { stream: u32::MAX, index: 1 },
            Token::Source { stream: 0, index: 0 },
            Token::Stdin { stream: 7 },
        ] {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }
}
