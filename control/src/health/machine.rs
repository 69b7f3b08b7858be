//! What a run of passes and failures makes of a server.

use std::time::SystemTime;

/// What is held of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Too few checks so far to say; gets no new connection.
    Unknown,
    /// May get new connections.
    Up,
    /// Gets no new connection.
    Down,
}

impl State {
    /// The word for listings.
    pub fn word(self) -> &'static str {
        match self {
            State::Unknown => "checking",
            State::Up => "up",
            State::Down => "down",
        }
    }
}

/// The state of one server with its rise and fall.
#[derive(Debug, Clone)]
pub struct Machine {
    rise: u32,
    fall: u32,
    state: State,
    /// Results in a row that speak against the state.
    against: u32,
    /// Since when the state is what it is.
    pub since: SystemTime,
    /// Why the last check failed or could not be made, while the server has not passed again.
    pub last_error: Option<String>,
    /// Passed checks.
    pub passes: u64,
    /// Failed checks.
    pub failures: u64,
    /// Changes between up and down.
    pub changes: u64,
}

impl Machine {
    /// A server of which nothing is known. Rise and fall of 0 count as 1.
    pub fn new(rise: u32, fall: u32) -> Self {
        Machine {
            rise: rise.max(1),
            fall: fall.max(1),
            state: State::Unknown,
            against: 0,
            since: SystemTime::now(),
            last_error: None,
            passes: 0,
            failures: 0,
            changes: 0,
        }
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// The server is known to be up from elsewhere. What checks have decided already stands.
    pub fn seed_up(&mut self) {
        if self.state == State::Unknown {
            self.state = State::Up;
            self.since = SystemTime::now();
        }
    }

    /// Takes in one result; the new state if it changed between up and not up.
    pub fn record(&mut self, result: Result<(), String>) -> Option<bool> {
        let passed = result.is_ok();
        self.last_error = result.err();
        let counter = if passed { &mut self.passes } else { &mut self.failures };
        *counter += 1;
        // A server that nothing is known of comes up with its first pass, so that a start does not wait for a whole
        // rise. It needs a whole fall to be called down, as it may turn out to be live (`seed_up`).
        let (speaks_against, needed) = match self.state {
            State::Unknown if passed => (true, 1),
            State::Unknown => (true, self.fall),
            State::Up => (!passed, self.fall),
            State::Down => (passed, self.rise),
        };
        if !speaks_against {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if self.against < needed {
            return None;
        }
        self.against = 0;
        self.state = if passed { State::Up } else { State::Down };
        self.since = SystemTime::now();
        self.changes += 1;
        Some(passed)
    }
}
