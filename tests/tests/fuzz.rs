//! What fuzzing has found in the losses stays mended, and random bytes find nothing more.

use std::fs;
use std::path::Path;

use policy_loss_oracle::Random;
use policy_loss_tests::fuzz::losses;

#[test]
fn findings() {
    let findings = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/losses");
    let files = fs::read_dir(findings).expect("the seeds are there");
    let mut compared = 0;
    for file in files {
        let path = file.expect("a file").path();
        println!("{}", path.display());
        compared += usize::from(losses(&fs::read(path).expect("it can be read")));
    }
    assert!(compared > 0, "no seed is a batch under an objective");
}

#[test]
fn random_bytes() {
    let mut random = Random(5);
    let mut compared = 0;
    for _ in 0..200 {
        let length = random.below(600);
        let bytes: Vec<u8> = (0..length).map(|_| random.bits() as u8).collect();
        compared += usize::from(losses(&bytes));
    }
    assert!(compared > 20, "only {compared} were compared");
}
