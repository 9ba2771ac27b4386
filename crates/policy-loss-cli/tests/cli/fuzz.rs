//! What fuzzing has found in what reads the input stays mended.

use std::fs;
use std::path::Path;

use policy_loss_cli::fuzz;

/// Replays what was found. Some of it is no input at all, and some of it is.
fn replay(target: &str, check: fn(&[u8]) -> bool) {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
    let files = fs::read_dir(seeds.join(target)).unwrap();
    let mut taken = [0, 0];
    for file in files {
        let path = file.unwrap().path();
        println!("{}", path.display());
        taken[usize::from(check(&fs::read(path).unwrap()))] += 1;
    }
    assert!(taken.into_iter().all(|count| count > 0), "{taken:?}");
}

#[test]
fn batch_files() {
    replay("batch_file", fuzz::batch_file);
}

#[test]
fn objectives() {
    replay("objective", fuzz::objective);
}
