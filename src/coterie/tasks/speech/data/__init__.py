"""Audio data: sources of clips, cropping, distortion and batching."""
