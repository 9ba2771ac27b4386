//! Empty on purpose: only its dependencies matter. Burn, or what it builds on, uses these packages, and some
//! package of this workspace asks for more of their features than Burn does. Whatever depends on
//! this asks for all of them, so that one build of Burn serves it with the others.
