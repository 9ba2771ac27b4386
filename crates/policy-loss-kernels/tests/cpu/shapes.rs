//! Every combination of parts, over shapes around the widths of vectors and blocks.

use policy_loss_kernels::cpu::Arithmetic;
use policy_loss_kernels::objective::RatioLevel;
use policy_loss_kernels::{Columns, Objective, Sums};
use policy_loss_oracle::{Random, Scale};

use crate::compare::check;
use crate::data::{Data, Form, KINDS, Kind};
use crate::levels;
use crate::objectives::{any, objectives};

/// Draws that were compared, and all of them.
#[derive(Default)]
struct Tally {
    compared: usize,
    drawn: usize,
}

impl Tally {
    /// Compares with the oracle in both types of arithmetic, on every vector unit.
    fn check(&mut self, data: &Data, objective: &Objective, scale: Option<Scale>) {
        self.check_in::<f32>(data, objective, scale);
        self.check_in::<f64>(data, objective, scale);
    }

    fn check_in<T: Arithmetic>(
        &mut self,
        data: &Data,
        objective: &Objective,
        scale: Option<Scale>,
    ) {
        self.drawn += 1;
        self.compared += usize::from(check::<T>(data, objective, scale, &levels()));
    }
}

impl Drop for Tally {
    /// A test that compares next to nothing proves next to nothing.
    fn drop(&mut self) {
        let Self { compared, drawn } = *self;
        println!("{compared} of {drawn} draws were compared");
        if !std::thread::panicking() {
            assert!(compared * 10 >= drawn * 7, "{compared} of {drawn}");
        }
    }
}

/// The totals of a global batch, or none.
fn any_scale(random: &mut Random) -> Option<Scale> {
    let scale = Scale {
        total: 108.0,
        world_size: 4.0,
    };
    (random.below(2) == 0).then_some(scale)
}

fn any_kinds(random: &mut Random) -> Columns<Kind> {
    Columns::default().map(|()| random.pick(&KINDS))
}

#[test]
fn every_combination_of_parts() {
    let mut random = Random(1);
    let mut tally = Tally::default();
    for objective in objectives() {
        for kind in [Kind::F32, Kind::F64] {
            for masked in [false, true] {
                for per_sequence in [false, true] {
                    let shape = (1 + random.below(5), 1 + random.below(70));
                    let form = Form {
                        per_sequence,
                        masked,
                        ..Form::of(kind, shape)
                    };
                    let data = Data::random(&mut random, form);
                    let scale = any_scale(&mut random);
                    match kind {
                        Kind::F64 => tally.check_in::<f64>(&data, &objective, scale),
                        Kind::F32 | Kind::F16 | Kind::Bf16 => {
                            tally.check_in::<f32>(&data, &objective, scale);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn many_parts_at_once() {
    let mut random = Random(2);
    let mut tally = Tally::default();
    for _ in 0..1500 {
        let objective = any(&mut random);
        let shape = (1 + random.below(4), 1 + random.below(40));
        let form = Form {
            per_sequence: random.below(2) == 0,
            masked: random.below(2) == 0,
            ..Form::of(Kind::F32, shape)
        };
        let data = Data::random(&mut random, form);
        tally.check(&data, &objective, any_scale(&mut random));
    }
}

#[test]
fn every_length_around_vectors_and_blocks() {
    let mut random = Random(3);
    let mut tally = Tally::default();
    let lengths = (1..=70)
        .chain(127..=130)
        .chain(255..=257)
        .chain(1023..=1025)
        .chain(4095..=4097);
    for tokens in lengths {
        for _ in 0..3 {
            let objective = any(&mut random);
            let form = Form {
                masked: random.below(2) == 0,
                ..Form::of(Kind::F32, (1 + random.below(3), tokens))
            };
            let data = Data::random(&mut random, form);
            tally.check(&data, &objective, None);
        }
    }
}

#[test]
fn every_mixture_of_types() {
    let mut random = Random(4);
    let mut tally = Tally::default();
    for log_probs in KINDS {
        for old_log_probs in KINDS {
            for advantages in KINDS {
                for _ in 0..4 {
                    let objective = any(&mut random);
                    let kinds = Columns {
                        log_probs,
                        old_log_probs,
                        advantages,
                        ..any_kinds(&mut random)
                    };
                    let form = Form {
                        shape: (3, 1 + random.below(200)),
                        kinds,
                        per_sequence: random.below(2) == 0,
                        masked: true,
                    };
                    let data = Data::random(&mut random, form);
                    tally.check(&data, &objective, None);
                }
            }
        }
    }
}

#[test]
fn many_short_rows_and_few_long_ones() {
    let mut random = Random(5);
    let mut tally = Tally::default();
    for shape in [
        (100_000, 1),
        (30_000, 3),
        (7, 20_000),
        (2, 70_001),
        (1, 150_000),
    ] {
        for _ in 0..24 {
            let form = Form {
                masked: random.below(3) > 0,
                ..Form::of(Kind::F64, shape)
            };
            let data = Data::random(&mut random, form);
            tally.check_in::<f64>(&data, &any(&mut random), None);
        }
    }
}

#[test]
fn batches_without_a_token() {
    let mut random = Random(6);
    for shape in [(0, 0), (0, 5), (5, 0)] {
        for per_sequence in [false, true] {
            for masked in [false, true] {
                let form = Form {
                    per_sequence,
                    masked,
                    ..Form::of(Kind::F32, shape)
                };
                let data = Data::random(&mut random, form);
                for objective in objectives() {
                    for arch in levels() {
                        let evaluated = data.run::<f32>(arch, &objective, None);
                        assert_eq!(evaluated.sums, Sums::default(), "{objective:?}");
                        assert_eq!(evaluated.loss.to_bits(), 0, "{objective:?}");
                        assert!(evaluated.gradient.is_empty());
                        assert!(evaluated.entropy_gradient.is_empty());
                    }
                }
            }
        }
    }
}

#[test]
fn sequence_ratios_reach_the_bounds() {
    let mut random = Random(7);
    let mut tally = Tally::default();
    let of_sequences = |objective: &Objective| objective.ratio.level != RatioLevel::Token;
    for objective in objectives().into_iter().filter(of_sequences) {
        let form = Form {
            masked: true,
            ..Form::of(Kind::F64, (4, 33))
        };
        let mut data = Data::random(&mut random, form);
        data.columns.log_probs.edit(|log_probs| {
            for value in &mut log_probs[..33] {
                *value += 25.0;
            }
            for value in &mut log_probs[33..66] {
                *value -= 25.0;
            }
        });
        tally.check(&data, &objective, None);
    }
}
