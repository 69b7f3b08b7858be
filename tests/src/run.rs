//! Running a program to its end, with a time limit and an error that shows what it said.

use std::ffi::OsString;
use std::fmt;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::netns::Netns;
use crate::wait;

/// How long an ordinary helper program may take.
const DEFAULT_LIMIT: Duration = Duration::from_secs(30);

/// A program to run to its end.
#[derive(Debug, Clone)]
pub struct Cmd {
    argv: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    limit: Duration,
}

/// What a program said.
#[derive(Debug, Clone)]
pub struct Said {
    /// Its exit code; `None`: ended by a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Cmd {
    /// A program without arguments yet.
    pub fn new(program: impl Into<OsString>) -> Cmd {
        Cmd { argv: vec![program.into()], envs: Vec::new(), limit: DEFAULT_LIMIT }
    }

    /// A program and its arguments, split at white space. For arguments without any in them.
    pub fn line(line: &str) -> Cmd {
        let mut words = line.split_whitespace();
        Cmd::new(words.next().unwrap_or("true")).args(words)
    }

    /// One more argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Cmd {
        self.argv.push(arg.into());
        self
    }

    /// More arguments.
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Cmd {
        self.argv.extend(args.into_iter().map(Into::into));
        self
    }

    /// An environment variable.
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Cmd {
        self.envs.push((key.into(), value.into()));
        self
    }

    /// Another time limit than 30 seconds.
    pub fn limit(mut self, limit: Duration) -> Cmd {
        self.limit = limit;
        self
    }

    /// The same in a network namespace.
    pub fn in_netns(mut self, netns: &Netns) -> Cmd {
        let outer = ["ip", "netns", "exec", netns.name()].map(OsString::from);
        self.argv.splice(0..0, outer);
        self
    }

    /// The words of the command, to be started by other means.
    pub(crate) fn argv(&self) -> &[OsString] {
        &self.argv
    }

    /// Runs it; any exit code but 0 is an error that shows what the program said.
    pub fn run(&self) -> Result<Said> {
        let said = self.run_any()?;
        if said.code != Some(0) {
            let code = said.code.map_or("a signal".to_owned(), |code| format!("exit code {code}"));
            bail!("`{self}` ended with {code}\n{}{}", said.stdout, said.stderr);
        }
        Ok(said)
    }

    /// Runs it; any exit code is fine.
    pub fn run_any(&self) -> Result<Said> {
        // Files instead of pipes: nobody has to read while the program runs.
        let mut stdout = tempfile::tempfile()?;
        let mut stderr = tempfile::tempfile()?;
        let mut child = Command::new(&self.argv[0])
            .args(&self.argv[1..])
            .envs(self.envs.iter().cloned())
            .stdin(Stdio::null())
            // Its own group: Ctrl-C ends us, and we end it.
            .process_group(0)
            .stdout(stdout.try_clone()?)
            .stderr(stderr.try_clone()?)
            .spawn()
            .with_context(|| format!("`{self}` does not start"))?;
        let deadline = Instant::now() + self.limit;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            let over = Instant::now() >= deadline;
            if let Err(interrupted) = if over { Ok(()) } else { wait::pause() } {
                child.kill().and_then(|()| child.wait())?;
                return Err(interrupted);
            }
            if over {
                child.kill().and_then(|()| child.wait())?;
                let said = text_of(&mut stdout)? + &text_of(&mut stderr)?;
                bail!("`{self}` was still running after {:?}\n{said}", self.limit);
            }
        };
        Ok(Said { code: status.code(), stdout: text_of(&mut stdout)?, stderr: text_of(&mut stderr)? })
    }
}

impl fmt::Display for Cmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self.argv.iter().map(|word| word.to_string_lossy()).collect();
        f.write_str(&words.join(" "))
    }
}

fn text_of(file: &mut std::fs::File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
