"""The service: pictures and live video in, people's keypoints out. torch is never imported here."""
