"""Files on disk: written whole, locked, verified before they are used."""
