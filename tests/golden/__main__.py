"""Writes every golden file; what differs then is for a person to read before it is committed."""

from tests.golden.making import ROOT, made

for path, text in made().items():
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
