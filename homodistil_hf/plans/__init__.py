"""A student's widths before any is cut: presets, budgets, milliseconds, advice."""
