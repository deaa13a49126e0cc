"""What a subnet costs: multiply-accumulates and parameters in closed form, latency by measurement."""
