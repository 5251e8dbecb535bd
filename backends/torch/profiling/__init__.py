"""What the operations of a network take on a device."""
