//! Methods that set a field, one after another: what a configuration or a batch is built with.

/// Declares such methods in an `impl`, each by its sentence, its name, and the field with what is taken
/// for it. With `of` it is a field of a part.
macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident($field:ident: $type:ty) $(of $part:ident)?;)*) => {
        $(
            $(#[$doc])*
            #[must_use]
            pub fn $name(mut self, $field: $type) -> Self {
                self$(.$part)?.$field = $field.into();
                self
            }
        )*
    };
}
