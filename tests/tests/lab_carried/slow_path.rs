//! The slow path, cause by cause.
