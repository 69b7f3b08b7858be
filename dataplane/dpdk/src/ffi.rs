//! Small helpers for talking to C.

use crate::Error;
use std::ffi::{CStr, CString, c_char};

/// Copies a C string; null becomes the empty string.
///
/// # Safety
/// `text` is null or points to a NUL-terminated string that lives for the length of the call.
pub(crate) unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller vouches for the pointer.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Makes a C string of a name or an argument.
pub(crate) fn c_string(value: &str) -> Result<CString, Error> {
    CString::new(value).map_err(|_| Error::NulInText { value: value.replace('\0', "\\0") })
}

/// The calling thread's `rte_errno`.
pub(crate) fn errno() -> i32 {
    // SAFETY: reads a thread-local integer.
    unsafe { dpdk_sys::tg_errno() }
}
