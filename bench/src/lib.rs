//! Our path against hand-written native loops, alternating in one run.
