//! What fuzzing has found in losses and heads stays mended, and random bytes find nothing more.

use std::fs;
use std::path::Path;

use policy_loss_oracle::Random;
use policy_loss_tests::fuzz::{heads, losses};

/// What is kept of a target.
fn seeds(target: &str) -> impl Iterator<Item = Vec<u8>> {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
    let files = fs::read_dir(seeds.join(target)).expect("the seeds are there");
    files.map(|file| {
        let path = file.expect("a file").path();
        println!("{}", path.display());
        fs::read(path).expect("it can be read")
    })
}

fn random_bytes(seed: u64, most: usize) -> impl Iterator<Item = Vec<u8>> {
    let mut random = Random(seed);
    (0..200).map(move |_| {
        let length = random.below(most);
        (0..length).map(|_| random.bits() as u8).collect()
    })
}

#[test]
fn findings() {
    let compared = seeds("losses").filter(|bytes| losses(bytes)).count();
    assert!(compared > 0, "no seed is a batch under an objective");
    assert!(seeds("heads").inspect(|bytes| heads(bytes)).count() > 0);
}

#[test]
fn random_losses() {
    let compared = random_bytes(5, 600).filter(|bytes| losses(bytes)).count();
    assert!(compared > 20, "only {compared} were compared");
}

#[test]
fn random_heads() {
    random_bytes(6, 300).for_each(|bytes| heads(&bytes));
}
