"""Rate, distortion and code usage."""
