from docs.generate import FOLDER, pages

for name, content in pages().items():
    (FOLDER / name).write_text(content, encoding="utf-8")
