"""Those who start worker processes and watch over them; `crew` says how."""
