//! CONFIGURE, FILE and RUN: from a waiting guest to a running program.

use std::fs;

use midge_frame::{flag, kind};
use serde_json::{Value, json};

use crate::command::NotStarted;
use crate::config::Config;
use crate::error::{Context, Error, Result};
use crate::launch::{Launch, Launched};
use crate::machine::{Machine, Main, Mode, State};
use crate::poller::Token;
use crate::requests::code;
use crate::{identity, mounts, net, pty, root, users};

impl Machine {
    pub fn is_container(&self) -> bool {
        matches!(self.mode, Mode::Container)
    }

    pub fn on_configure(&mut self, value: &Value) {
        if let Some(error) = self.start_refused(State::Waiting) {
            return self.error(kind::CONFIGURE, 0, error.0, &error.1);
        }
        self.laps.begin();
        let configured = Config::from_json(value).and_then(|config| self.configure(config));
        match configured {
            Ok(()) => {
                self.state = State::Configured;
                let took_us = self.laps.end_us();
                self.channel.outbox.control(kind::CONFIGURED, 0, &json!({"took_us": took_us}));
            }
            Err(error) => self.error(kind::CONFIGURE, 0, code::FAILED, &error),
        }
    }

    fn configure(&mut self, config: Config) -> Result<()> {
        // Kept at once, so that whatever fails, what is mounted is known to the end of the machine.
        self.config = config;
        let config = &self.config;
        if self.is_container() {
            // The runtime has made root, mounts and network; the kernel and its clock are the host's.
            let _ = net::loopback_up();
            return identity::apply(&config.identity, None, true);
        }
        identity::apply_time(&config.identity)?;
        match &config.root {
            Some(root) => {
                self.layer = Some(root::enter(root, config.swap_mb, self.warmed.take().as_ref())?);
            }
            None if config.swap_mb > 0 => {
                return Err(Error::new("swap needs a writable layer, and root is null"));
            }
            None => {}
        }
        identity::apply(&config.identity, None, false)?;
        if !config.mounts.is_empty() {
            // An unknown user is RUN's to report.
            let owner = users::find(config.program.user.as_deref()).ok();
            for volume in &config.mounts {
                mounts::mount(volume, owner.as_ref())?;
            }
        }
        Ok(())
    }

    /// Why a step of the start is not taken.
    fn start_refused(&self, needed: State) -> Option<(&'static str, Error)> {
        if let Some(first) = &self.refusal {
            return Some((code::REFUSED, Error::new(format!("refused after an earlier failure: {first}"))));
        }
        let state = self.state;
        let message = || Error::new(format!("machine is {}, not {}", state.name(), needed.name()));
        (state != needed).then(|| (code::WRONG_STATE, message()))
    }

    pub fn on_file(&mut self, stream: u32, value: &Value) {
        let needed = if self.state == State::Running { State::Running } else { State::Configured };
        let refused = self.start_refused(needed).filter(|_| self.state != State::Running);
        if let Some((code, error)) = refused {
            return self.error(kind::FILE, stream, code, &error);
        }
        if let Err(error) = self.transfers.begin(stream, value) {
            self.error(kind::FILE, stream, code::FAILED, &error);
        }
    }

    pub fn on_file_data(&mut self, stream: u32, bytes: &[u8], end: bool) {
        match self.transfers.data(stream, bytes, end) {
            Some(Ok(true)) => self.channel.outbox.control(kind::FILE_DONE, stream, &json!({})),
            Some(Err(error)) => self.error(kind::FILE_DATA, stream, code::FAILED, &error),
            Some(Ok(false)) | None => {}
        }
    }

    /// Starts the main process. Whatever keeps it from running ends the machine with an exit that says so.
    pub fn on_run(&mut self) {
        if matches!(self.state, State::Running | State::Exited) {
            let message = Error::new(format!("machine is {}", self.state.name()));
            return self.error(kind::RUN, 0, code::WRONG_STATE, &message);
        }
        if let Some((code, error)) = self.start_refused(State::Configured) {
            let first = self.refusal.clone().unwrap_or_else(|| error.clone());
            self.error(kind::RUN, 0, code, &error);
            return self.give_up(&NotStarted::from(first));
        }
        match self.launch() {
            Ok(launched) => {
                let took_us = self.laps.end_us();
                for (index, source) in (0..).zip(&launched.sources) {
                    let _ = self.poller.add(&**source.fd(), Token::Source { stream: 0, index });
                }
                let running = json!({"pid": launched.pid, "took_us": took_us});
                self.channel.outbox.control(kind::RUNNING, 0, &running);
                let (pid, sources) = (launched.pid, launched.sources);
                self.main = Some(Main { pid, sources, status: None, oom_killed: false });
                self.state = State::Running;
            }
            Err(failed) => {
                self.error(kind::RUN, 0, code::FAILED, &failed.error);
                self.give_up(&failed);
            }
        }
    }

    fn launch(&self) -> std::result::Result<Launched, NotStarted> {
        let program = &self.config.program;
        let account = users::find(program.user.as_deref())?;
        let cwd = &program.cwd;
        if !fs::metadata(cwd).is_ok_and(|metadata| metadata.is_dir()) {
            fs::create_dir_all(cwd).context(|| format!("cannot create working directory {cwd:?}"))?;
        }
        Launch {
            argv: &program.argv,
            env: program.env.clone(),
            account: &account,
            cwd,
            terminal: program.tty.then_some(pty::DEFAULT_SIZE),
            stdin: false,
            limits: &program.limits,
            root: None,
            filter: Vec::new(),
        }
        .start()
    }

    fn give_up(&mut self, failed: &NotStarted) {
        let line = format!("midge: {}\n", failed.error);
        self.channel.outbox.output(kind::OUTPUT, flag::STDERR, 0, line.as_bytes());
        self.report_exit(Some(failed.exit_code), None, false, Some(&failed.error));
    }
}
