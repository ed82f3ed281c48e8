"""A finished student leaves: folder, facts, card, verification, Hub upload; it trains nothing."""
