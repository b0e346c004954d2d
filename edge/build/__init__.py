"""What happens before a frame exists: calibrate → plan → rewrite → lint → compile → verify → publish."""
