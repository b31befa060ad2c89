"""What the modules at the door are built from; no notebook names anything in here."""
