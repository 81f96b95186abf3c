"""The picture of a report in docs/own-images.md, from a finished run: `python docs/make_report_picture.py runs/pictures`. Needs Chromium."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

PICTURE = Path(__file__).parent / "pictures" / "own-images-report.png"
WIDTH, HEIGHT, COLOURS = 1280, 1800, 128  # few colours: the file stays small
LARGEST = 300_000  # bytes


def main() -> None:
    report = Path(sys.argv[1]).absolute() / "report.html"
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None or not report.is_file():
        sys.exit(f"needs chromium, and {report}")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--user-data-dir={folder}/profile"]
        size = [f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={shot}"]
        subprocess.run([browser, *options, *size, f"file://{report}"], check=True, capture_output=True)
        image = Image.open(shot).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    content = io.BytesIO()
    image.save(content, "png", optimize=True)
    if len(content.getvalue()) > LARGEST:
        sys.exit(f"{len(content.getvalue()):,} bytes, more than {LARGEST:,}")
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_bytes(content.getvalue())
    print(PICTURE, f"{len(content.getvalue()):,} bytes")


if __name__ == "__main__":
    main()
