//! Where DPDK's own log lines go.
//!
//! All of them pass through here: to stderr at a chosen level by default, or to a callback. The latest complaints are
//! also remembered, so that an [`Error`](crate::Error) can quote what the driver said instead of a bare number.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::c_char;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Once, PoisonError, RwLock};

/// How many complaints are remembered for error messages.
const COMPLAINTS_MAX: usize = 8;

/// Severity of a DPDK log line, most severe first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u32)]
pub enum LogLevel {
    /// The system is unusable.
    Emergency = dpdk_sys::RTE_LOG_EMERG,
    /// Act at once.
    Alert = dpdk_sys::RTE_LOG_ALERT,
    /// Critical.
    Critical = dpdk_sys::RTE_LOG_CRIT,
    /// An error.
    Error = dpdk_sys::RTE_LOG_ERR,
    /// A warning.
    Warning = dpdk_sys::RTE_LOG_WARNING,
    /// Normal but noteworthy.
    Notice = dpdk_sys::RTE_LOG_NOTICE,
    /// Information.
    Info = dpdk_sys::RTE_LOG_INFO,
    /// Everything.
    Debug = dpdk_sys::RTE_LOG_DEBUG,
}

impl LogLevel {
    fn from_raw(level: u32) -> Self {
        match level {
            0 | dpdk_sys::RTE_LOG_EMERG => Self::Emergency,
            dpdk_sys::RTE_LOG_ALERT => Self::Alert,
            dpdk_sys::RTE_LOG_CRIT => Self::Critical,
            dpdk_sys::RTE_LOG_ERR => Self::Error,
            dpdk_sys::RTE_LOG_WARNING => Self::Warning,
            dpdk_sys::RTE_LOG_NOTICE => Self::Notice,
            dpdk_sys::RTE_LOG_INFO => Self::Info,
            _ => Self::Debug,
        }
    }
}

/// The taker of log lines.
pub enum LogSink {
    /// Standard error, as DPDK itself would.
    Stderr,
    /// A function; called from any thread that logs, so it must be quick and must not call into DPDK.
    Callback(LogFn),
}

/// A function that takes log lines.
pub type LogFn = Box<dyn Fn(LogLevel, &str) + Send + Sync>;

static SINK: RwLock<LogSink> = RwLock::new(LogSink::Stderr);
static LEVEL: AtomicU32 = AtomicU32::new(LogLevel::Warning as u32);
static REDIRECT: Once = Once::new();

thread_local! {
    /// Per thread, because a thread's error is to quote what its own call was answered with.
    static COMPLAINTS: RefCell<VecDeque<String>> = const { RefCell::new(VecDeque::new()) };
}

/// Sends DPDK's log lines of `level` and more severe ones to `sink`; works before and after [`crate::Eal::init`].
///
/// Without a call, warnings and worse go to stderr.
pub fn set_log_sink(level: LogLevel, sink: LogSink) {
    redirect();
    *SINK.write().unwrap_or_else(PoisonError::into_inner) = sink;
    LEVEL.store(level as u32, Ordering::Relaxed);
    apply_level();
}

/// Takes over DPDK's log stream, once per process.
pub(crate) fn redirect() {
    REDIRECT.call_once(|| {
        // SAFETY: `take` lives for ever and follows the callback's contract. When the stream cannot be made DPDK
        // keeps its own stderr output, which is all that could be done about it.
        let _ = unsafe { dpdk_sys::tg_log_redirect(Some(take)) };
        apply_level();
    });
}

/// Tells DPDK what it need not even format. Warnings always pass, because error messages quote them.
fn apply_level() {
    let level = LEVEL.load(Ordering::Relaxed).max(LogLevel::Warning as u32);
    // SAFETY: both only store the level; the pattern is a static NUL-terminated string.
    unsafe {
        dpdk_sys::rte_log_set_global_level(level);
        if level > LogLevel::Info as u32 {
            dpdk_sys::rte_log_set_level_pattern(c"*".as_ptr(), level);
        }
    }
}

/// Forgets earlier complaints; called before an operation whose error is to quote its own.
pub(crate) fn forget_complaints() {
    COMPLAINTS.with_borrow_mut(VecDeque::clear);
}

/// What DPDK complained about to this thread since [`forget_complaints`], as one line.
pub(crate) fn complaints() -> String {
    COMPLAINTS.with_borrow(|lines| match lines.is_empty() {
        true => "nothing".to_owned(),
        false => lines.iter().map(String::as_str).collect::<Vec<_>>().join("; "),
    })
}

/// Called by C for every piece of output.
unsafe extern "C" fn take(level: u32, text: *const c_char, len: usize) {
    // A panicking sink must not unwind through C; losing its line is the lesser evil.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: C hands over `len` readable bytes for the length of the call.
        let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), len) };
        let level = LogLevel::from_raw(level);
        for line in String::from_utf8_lossy(bytes).lines().filter(|line| !line.trim().is_empty()) {
            log_line(level, line);
        }
    }));
}

fn log_line(level: LogLevel, line: &str) {
    // Some drivers log the true cause as a warning and only what follows from it as an error.
    if level <= LogLevel::Warning {
        // A thread that is ending has none any more, and nobody to quote it to.
        let _ = COMPLAINTS.try_with(|lines| {
            let mut lines = lines.borrow_mut();
            if lines.len() == COMPLAINTS_MAX {
                lines.pop_front();
            }
            lines.push_back(line.trim().to_owned());
        });
    }
    if level as u32 > LEVEL.load(Ordering::Relaxed) {
        return;
    }
    match &*SINK.read().unwrap_or_else(PoisonError::into_inner) {
        LogSink::Stderr => eprintln!("{line}"),
        LogSink::Callback(sink) => sink(level, line),
    }
}
