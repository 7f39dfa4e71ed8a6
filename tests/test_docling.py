"""Documents read by Docling itself, where it is installed: what people write, what is broken, what needs models that are not here."""

import csv
import gzip
import io
import socket
from pathlib import Path
from typing import Any

import docx
import pytest

from llmops_nb import data, readers
from llmops_nb.errors import InputError

pytest.importorskip("docling.document_converter", reason="docling is not installed: pip install llmops_nb[docling]")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    "Files as the usual programs write them; whoever asks the network fails."
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: pytest.fail(f"It looked up {args}."))
    letter = docx.Document()
    letter.add_heading("Refunds", 1)
    letter.add_paragraph("Money comes back within 30 days.")
    grid = letter.add_table(rows=2, cols=2)
    for cell, text in zip([cell for row in grid.rows for cell in row.cells], ["item", "days", "book", "30"], strict=True):
        cell.text = text
    letter.save(str(tmp_path / "letter.docx"))
    (tmp_path / "packed.DOCX.gz").write_bytes(gzip.compress((tmp_path / "letter.docx").read_bytes()))
    (tmp_path / "page.html").write_text("<h1>Delivery</h1><p>naïve &amp; a_b</p><img src='http://example.org/a.png'>", encoding="utf-8")
    (tmp_path / "notes.md").write_text("# Notes\n\n2 < 3 & a_b\n\n```\nx_y = '<z>'\n```\n")
    (tmp_path / "mail.eml").write_text("From: a@example.org\nTo: b@example.org\nSubject: Refund\n\nPlease send it.\n")
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["item", "days"], ["book", 30]])
    return tmp_path


def office(folder: Path) -> None:
    "A deck and a sheet, by libraries that come with Docling."
    import openpyxl
    import pptx

    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[1])
    slide.shapes.title.text, slide.placeholders[1].text = "Quarter", "Up by 3 %"
    deck.save(str(folder / "deck.pptx"))
    sheet = openpyxl.Workbook()
    for row in (["item", "days"], ["book", 30]):
        sheet.active.append(row)
    sheet.save(folder / "sheet.xlsx")


@pytest.mark.parametrize("bar", [True, False])
def test_what_people_write_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch, bar: bool) -> None:
    from llmops_nb import sources

    monkeypatch.setattr(sources, "bars_hidden", lambda: not bar)
    office(folder)
    docs = data.load(folder, reader="docling").set_index("id")
    texts = {name: " ".join(text.replace("-", "").split()) for name, text in docs.text.items()}
    table = "| item | days | ||| | book | 30 |"
    assert texts["letter.docx"] == texts["packed.DOCX.gz"] == f"## Refunds Money comes back within 30 days. {table}"
    assert texts["sheet.xlsx"] == texts["rows.csv"] == table
    assert texts["deck.pptx"] == "# Quarter Up by 3 %"
    assert docs.text["mail.eml"].startswith("# Refund") and docs.text["mail.eml"].endswith("Please send it.")
    assert docs.text["page.html"].split("\n\n") == ["# Delivery", "naïve & a_b"]  # nothing escaped, no mark where a picture was
    assert docs.text["notes.md"].split("\n\n")[1:] == ["2 < 3 & a_b", "```\nx_y = '<z>'\n```"]
    notes = data.lineage(data.load(folder, reader="docling"))
    assert notes[["id", "reason"]].to_numpy().tolist() == [["page.html", "Left out: 1 x picture."]]


def test_what_is_broken_has_one_line_and_the_rest_goes_through(folder: Path, capfd: pytest.CaptureFixture) -> None:
    (folder / "broken.docx").write_bytes(b"PK\x03\x04 not an archive")
    (folder / "cut.docx").write_bytes((folder / "letter.docx").read_bytes()[:9_000])
    (folder / "empty.md").write_text("")
    (folder / "noise.bin").write_bytes(bytes(range(256)) * 20)
    docs = data.load(folder, reader="docling")
    assert sorted(docs.id) == ["letter.docx", "mail.eml", "notes.md", "packed.DOCX.gz", "page.html", "rows.csv"]
    notes = data.lineage(docs).set_index("id").reason
    assert sorted(notes.index) == ["broken.docx", "cut.docx", "empty.md", "noise.bin", "page.html"]
    assert all("\n" not in reason and len(reason) < 400 for reason in notes)
    assert capfd.readouterr().err == ""


def test_models_that_are_missing_are_one_note_and_nothing_else_is_lost(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from docling.datamodel.settings import settings

    (folder / "models").mkdir()
    monkeypatch.setattr(settings, "artifacts_path", folder / "models")
    (folder / "a.pdf").write_bytes(PDF)
    docs = data.load(folder, reader="docling")
    assert len(docs) == 6 and "docling-tools models download" in data.lineage(docs).set_index("id").reason["a.pdf"]
    with pytest.raises(InputError, match=r"a\.pdf: Docling's models"):
        data.load(folder / "a.pdf", reader="docling")


def pdf(*pages: str) -> bytes:
    "A PDF with a line of text on each page."
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>"]
    objects.append("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    for n, text in enumerate(pages):
        stream = f"BT /F1 24 Tf 72 700 Td ({text}) Tj ET"
        page = f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * n} 0 R /Resources << /Font << /F1 3 0 R >> >> >>"
        objects += [page, f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream"]
    out, places = io.BytesIO(b"%PDF-1.4\n"), []
    out.seek(0, io.SEEK_END)
    for n, content in enumerate(objects, 1):
        places.append(out.tell())
        out.write(f"{n} 0 obj\n{content}\nendobj\n".encode())
    end = out.tell()
    out.write(f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{''.join(f'{place:010d} 00000 n {chr(10)}' for place in places)}".encode())
    out.write(f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{end}\n%%EOF".encode())
    return out.getvalue()


PDF = pdf("Refunds take 30 days.", "Send the form.")


def test_a_pdf_by_a_converter_that_needs_no_models(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from docling.datamodel.base_models import InputFormat
    from docling.datamodel.pipeline_options import NativePdfPipelineOptions
    from docling.document_converter import DocumentConverter, PdfFormatOption
    from docling.pipeline.native_pdf_pipeline import NativePdfPipeline

    native: Any = PdfFormatOption(pipeline_cls=NativePdfPipeline, pipeline_options=NativePdfPipelineOptions())
    monkeypatch.setattr(readers, "_docling", lambda: DocumentConverter(format_options={InputFormat.PDF: native}))
    (folder / "a.pdf").write_bytes(PDF)
    docs = data.load(folder / "a.pdf", reader="docling")
    assert docs.id.tolist() == ["a.pdf"] and docs.text[0].split("\n\n") == ["Refunds take 30 days.", "Send the form."]


def test_an_archive_that_unpacks_to_anything_is_refused(folder: Path) -> None:
    import zipfile

    with zipfile.ZipFile(folder / "letter.docx") as packed:
        parts = {name: packed.read(name) for name in packed.namelist()}
    parts["word/document.xml"] = parts["word/document.xml"].replace(b"Money", b"0" * 300_000_000)
    with zipfile.ZipFile(folder / "bomb.docx", "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in parts.items():
            packed.writestr(name, content)
    with pytest.raises(InputError, match="exceeding"):
        data.load(folder / "bomb.docx", reader="docling")
