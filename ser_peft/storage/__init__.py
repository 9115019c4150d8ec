"""Files on disk: written whole, locked, proven before they are used."""
