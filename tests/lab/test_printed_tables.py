"""The printed tables: complete, typed, and refused with a clear word where they are not."""

import hashlib
import shutil

import pytest

from mtl_lab.claims import printed_tables


def test_every_number_of_every_table_is_there():
    counts = [len(printed_tables.table("recon", number)) for number in range(1, 17)]
    assert counts == [59, 26, 77, 142, 131, 71, 70, 83, 83, 83, 30, 10, 35, 10, 175, 95]
    assert set(printed_tables.about("recon")["captions"]) == set(range(1, 17))


# Each file as it was when it was last read against its source: change an entry after a second reading alone.
READ = {
    "famo/table_03": "6352473c26a6",
    "nash_mtl/single_task_qm9": "a99503dc469a",
    "recon/differences": "5361abdd4e52",
    "recon/protocol": "04b31dd18dd9",
    "recon/read_off_figures": "7e621ddb364d",
    "recon/released_ranking": "852bea42fc49",
    "recon/table_01": "94dce84f2855",
    "recon/table_02": "bc70d667778a",
    "recon/table_03": "1f1610edca99",
    "recon/table_04": "9e90a792e447",
    "recon/table_05": "cbc5bb106968",
    "recon/table_06": "68a1de74b00a",
    "recon/table_07": "eb8112de044d",
    "recon/table_08": "f84b7ce08597",
    "recon/table_09": "89ed149e3497",
    "recon/table_10": "5b574406a4eb",
    "recon/table_11": "7c184aa6b75f",
    "recon/table_12": "cc6d5161d817",
    "recon/table_13": "1a55161444bd",
    "recon/table_14": "6f5758b2d4c7",
    "recon/table_15": "2bd7bd98df77",
    "recon/table_16": "03c50620d6eb",
    "rotograd/table_01": "bfffe1beacaf",
    "rotograd/table_02": "21f9f995bdf9",
    "rotograd/table_03": "d88c6d032bbb",
    "rotograd/table_04": "2a5854384ed8",
    "sam_gs/differences": "e69d15d3b08f",
    "sam_gs/table_01": "55e40a6fd184",
    "sam_gs/table_02": "fd3611707794",
    "sam_gs/table_03": "5f245f4eb5d1",
    "sam_gs/table_04": "5813ee16a057",
    "sam_gs/table_05": "11bfbb36b8a4",
    "sam_gs/table_06": "8c27d678a7bf",
    "sam_gs/table_07": "8da9768af103",
}


def test_no_printed_number_changes_unseen():
    files = {f"{file.parent.name}/{file.stem}": file.read_bytes() for file in printed_tables.ROOT.glob("*/*.csv")}
    assert {name: hashlib.sha256(content).hexdigest()[:12] for name, content in files.items()} == READ


def test_a_row_is_typed_and_keeps_its_printed_digits():
    row = printed_tables.table("recon", 1)[3]
    assert (row["method"], row["task"], row["metric"]) == ("RotoGrad", "T1", "accuracy")
    assert (row["value"], row["printed"], row["higher_is_better"]) == (98.1, "98.10", True)
    assert row["half_unit"] == pytest.approx(0.005)
    depth = next(r for r in printed_tables.table("recon", 3) if r["note"])
    assert (depth["printed"], depth["half_unit"]) == ("0.02", pytest.approx(0.005))
    assert printed_tables.table("recon", 6)[0]["higher_is_better"] is None


def test_printed_digits_are_those_of_the_paper():
    """Spot checks against the paper, one per table shape, so that a shifted column cannot pass."""
    keys = ("table", "method", "variant", "task", "metric")
    rows = [row for number in range(1, 17) for row in printed_tables.table("recon", number)]
    at = {tuple(row[key] for key in keys): row["printed"] for row in rows}
    assert at[1, "CAGrad", "Recon", "T2", "accuracy"] == "89.65"
    assert at[2, "PCGrad", "", "", "delta_m"] == "-3.14"
    assert at[4, "MGDA", "Recon", "normals", "median angle"] == "12.88"
    assert at[5, "GradDrop", "Recon", "", "delta_m"] == "4.67"
    assert at[7, "PCGrad", "RSP 2", "T2", "drop"] == "5.27"
    assert at[9, "CAGrad", "Recon", "", "share in (-0.06, -0.08]"] == "1.01"
    assert at[12, "4th quarter", "3rd quarter", "", "rank distance"] == "0.68"
    assert at[15, "MGDA", "Recon*", "normals", "within 30"] == "69.82"
    assert at[16, "CAGrad", "Recon*", "depth", "relative error"] == "40.05"


def test_unknown_names_list_what_exists():
    with pytest.raises(LookupError, match="recon"):
        printed_tables.table("recom", 1)
    with pytest.raises(LookupError, match=r"no table 17 .*1, 2, .*16"):
        printed_tables.table("recon", 17)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",98.10,", ",98,10,", "table_01.csv, line 5"),
        ("table,row,", "table,line,", "expected the columns"),
        ("\n1,2,RotoGrad,,", "\n2,2,RotoGrad,,", "the file is that of table 1"),
        (",T2,accuracy,88.25", ",T1,accuracy,88.25", "twice"),
        (",98.10,%,true", ",98.10,%,yes", "line 5"),
        (",98.10,%,true,", ",nan,%,true,", "line 5"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path, monkeypatch, old, new, message):
    shutil.copytree(printed_tables.ROOT / "recon", tmp_path / "recon")
    monkeypatch.setattr(printed_tables, "ROOT", tmp_path)
    file = printed_tables.path("recon", 1)
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        printed_tables.table("recon", 1)


def test_the_page_recomputes_in_the_papers_own_sign_and_average(monkeypatch):
    """SAM-GS averages over metrics and prints the opposite sign; three cells of NYUv2 do not follow from their row."""
    monkeypatch.syspath_prepend(str(printed_tables.ROOT.parent / "_ext"))
    import printed_tables as extension  # of the site

    cityscapes = extension._recomputed(printed_tables.table("sam_gs", 1), grouped=False)
    assert cityscapes["SAM-GS", ""] == "6.51, agrees" and all(cell.endswith("agrees") for cell in cityscapes.values())
    nyuv2 = extension._recomputed(printed_tables.table("sam_gs", 2), grouped=False)
    assert nyuv2["SAM-GS", ""] == "−5.30, agrees"
    assert {m for (m, _), cell in nyuv2.items() if "differs" in cell} == {"GradNorm", "IMTL-G", "Aligned-MTL"}
    recon = extension._recomputed(printed_tables.table("recon", 1), grouped=True)
    assert len(recon) > 10 and recon != extension._recomputed(printed_tables.table("sam_gs", 1), grouped=True)
