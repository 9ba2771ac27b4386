//! Conversions of 16-bit numbers without branches, so that loops over them become vectors.
//!
//! Results are those of the `half` crate, whose own conversions are calls.

/// 2^112, the distance between the exponent biases of f32 and f16.
const REBIAS: f32 = f32::from_bits((127 + 112) << 23);

/// The f32 of the same value; NaN stays NaN.
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff) << 13;
    // In the place of an f32's bits the exponent is too small by a constant; the product
    // puts it right, also for numbers too small to be normal.
    let finite = (f32::from_bits(magnitude) * REBIAS).to_bits();
    let non_finite = magnitude | 0x7f80_0000;
    let value = if magnitude < 0x7c00 << 13 {
        finite
    } else {
        non_finite
    };
    f32::from_bits(value | sign)
}

/// The nearest f16, ties to even; NaN stays NaN.
#[inline(always)]
pub fn f32_to_f16(value: f32) -> u16 {
    /// Its unit in the last place is that of the smallest f16.
    const ALIGN: f32 = f32::from_bits((127 - 15 + 23 - 10 + 1) << 23);

    let bits = value.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    // Too small for a normal f16: the sum rounds at the right place.
    let aligned = f32::from_bits(magnitude) + ALIGN;
    let subnormal = aligned.to_bits().wrapping_sub(ALIGN.to_bits());
    // The exponent's bias is exchanged and half a unit added, less one where even is below.
    let is_odd = (magnitude >> 13) & 1;
    let normal = magnitude
        .wrapping_sub(112 << 23)
        .wrapping_add(0xfff + is_odd)
        >> 13;
    let overflow = if magnitude > 0x7f80_0000 {
        0x7e00
    } else {
        0x7c00
    };
    let result = if magnitude >= (127 + 16) << 23 {
        overflow
    } else if magnitude < (127 - 14) << 23 {
        subnormal
    } else {
        normal
    };
    (result | sign) as u16
}

/// The f32 of the same value.
#[inline(always)]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The nearest bf16, ties to even; NaN stays NaN.
#[inline(always)]
pub fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let is_odd = (bits >> 16) & 1;
    let rounded = bits.wrapping_add(0x7fff + is_odd) >> 16;
    let nan = (bits >> 16) | 0x40;
    let is_nan = bits & 0x7fff_ffff > 0x7f80_0000;
    (if is_nan { nan } else { rounded }) as u16
}
