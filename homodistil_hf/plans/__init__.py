"""How wide a student will be: presets, budgets, milliseconds, advice; nothing is cut here."""
