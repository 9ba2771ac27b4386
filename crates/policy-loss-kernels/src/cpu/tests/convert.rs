//! Conversions against those of the crate that defines the types.

use half::{bf16, f16};

use crate::cpu::half_bits::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};

/// Whether two numbers are the same bits, or both NaN.
fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

#[test]
fn every_half_is_widened() {
    for bits in 0..=u16::MAX {
        assert!(same(f16_to_f32(bits), f16::from_bits(bits).to_f32()));
        assert!(same(bf16_to_f32(bits), bf16::from_bits(bits).to_f32()));
    }
}

#[test]
fn every_half_its_neighbours_and_the_middle_between_are_narrowed() {
    let check = |value: f32| {
        let got = f16::from_bits(f32_to_f16(value)).to_f32();
        assert!(same(got, f16::from_f32(value).to_f32()), "f16 of {value:e}");
        let got = bf16::from_bits(f32_to_bf16(value)).to_f32();
        assert!(
            same(got, bf16::from_f32(value).to_f32()),
            "bf16 of {value:e}"
        );
    };
    for bits in 0..=u16::MAX {
        for value in [
            f16::from_bits(bits).to_f32(),
            bf16::from_bits(bits).to_f32(),
        ] {
            for offset in [0, 1, 0xfff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001] {
                check(f32::from_bits(value.to_bits().wrapping_add(offset)));
                check(f32::from_bits(value.to_bits().wrapping_sub(offset)));
            }
        }
    }
}
