"""Families that tests in folders below build, too, are found here."""
