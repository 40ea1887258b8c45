"""What passes that cut axes share: who reads an axis, which units go, what region is edited."""
