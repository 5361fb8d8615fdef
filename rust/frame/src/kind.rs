//! Frame types. Below 0x40 from the host, 0x40 to 0x7f from the guest, 0x80 and up between shim and worker only.

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        $($(#[$doc])* pub const $name: u8 = $value;)*

        /// Name of a frame type as the documentation spells it.
        #[must_use]
        pub fn name(kind: u8) -> Option<&'static str> {
            match kind {
                $($value => Some(stringify!($name)),)*
                _ => None,
            }
        }
    };
}

kinds! {
    /// Opens a session.
    HELLO = 0x01;
    /// Says who the machine is and what it runs.
    CONFIGURE = 0x02;
    /// Starts the main process.
    RUN = 0x03;
    /// Signal for the main process.
    SIGNAL = 0x04;
    /// Runs a further process.
    EXEC = 0x05;
    /// Bytes for an exec's standard input.
    STDIN = 0x06;
    /// New size of an exec's terminal.
    RESIZE = 0x07;
    /// Signal for an exec's process group.
    EXEC_SIGNAL = 0x08;
    /// Announces a file.
    FILE = 0x09;
    /// Bytes of an announced file.
    FILE_DATA = 0x0a;
    /// Asks for figures.
    STATS = 0x0b;
    /// Asks for the process list.
    PS = 0x0c;
    /// Asks for silence before a snapshot.
    QUIESCE = 0x0d;
    /// Ends the effects of a pause: clock, entropy, name.
    RESUME = 0x0e;
    /// Powers off without an exit report.
    SHUTDOWN = 0x0f;
    /// The exit is on disk.
    EXIT_ACK = 0x10;
    /// Grants more exec output.
    WINDOW = 0x11;
    /// Warms a waiting guest.
    WARM = 0x12;

    /// Answers HELLO.
    HELLO_ACK = 0x41;
    /// Answers CONFIGURE.
    CONFIGURED = 0x42;
    /// Answers RUN.
    RUNNING = 0x43;
    /// The main process has ended.
    EXIT = 0x44;
    /// Answers EXEC.
    EXEC_STARTED = 0x45;
    /// Bytes an exec has written.
    EXEC_OUTPUT = 0x46;
    /// An exec has ended.
    EXEC_EXIT = 0x47;
    /// A file is in place.
    FILE_DONE = 0x48;
    /// Answers STATS.
    STATS_REPLY = 0x49;
    /// Answers PS.
    PS_REPLY = 0x4a;
    /// Answers QUIESCE.
    QUIESCED = 0x4b;
    /// Answers RESUME.
    RESUMED = 0x4c;
    /// Answers WARM.
    WARMED = 0x4d;
    /// Grants more standard input.
    STDIN_WINDOW = 0x4e;
    /// Something failed.
    ERROR = 0x4f;
    /// Bytes the main process has written.
    OUTPUT = 0x50;

    /// First frame of the shim on every connection.
    SHIM_STATE = 0x81;
    /// The VMM or container is gone.
    SHIM_ENDED = 0x82;
    /// Ends the VMM or container at once.
    SHIM_KILL = 0x83;
    /// Ends the shim.
    SHIM_QUIT = 0x84;
    /// Path of the log to write from now on, in bytes.
    SHIM_LOG = 0x85;
}

/// Whether frames of this type carry raw bytes, which are never assembled, rather than JSON.
#[must_use]
pub fn is_raw(kind: u8) -> bool {
    matches!(kind, STDIN | FILE_DATA | EXIT_ACK | WINDOW | EXEC_OUTPUT | STDIN_WINDOW | OUTPUT | SHIM_LOG)
}
