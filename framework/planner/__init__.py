"""What a run would take before it is started: parameters, operations, memory, time, money. Imports no torch."""
