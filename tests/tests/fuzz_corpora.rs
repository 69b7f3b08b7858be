//! Every input that fuzzing found worth keeping, once more, without the fuzzer.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;

#[test]
fn no_kept_input_breaks_a_promise() {
    for (name, run) in tollgate_fuzz::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpora").join(name);
        let mut count = 0;
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            // Shown when the input breaks a promise.
            println!("{}", path.display());
            run(&fs::read(&path).unwrap());
            count += 1;
        }
        assert!(count > 0, "{} is empty", folder.display());
    }
}
