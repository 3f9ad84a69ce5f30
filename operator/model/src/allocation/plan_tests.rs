//! Values in, plan out.
