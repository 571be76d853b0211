"""The ports' implementations. A module is imported when its adapter is first used."""
