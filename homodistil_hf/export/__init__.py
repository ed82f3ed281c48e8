"""Exports of a finished student: folder, facts, card, verification, Hub upload; nothing is trained here."""
