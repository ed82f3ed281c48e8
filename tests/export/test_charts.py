"""Pictures: points where they belong, one colour a line."""

from xml.etree import ElementTree

import pytest
from rows import each

from homodistil_hf.export.report import line_chart

SVG = "{http://www.w3.org/2000/svg}"


def elements(picture, name):
    return list(ElementTree.fromstring(picture).iter(SVG + name))


def line_places(picture):
    paths = [path.get("d") for path in elements(picture, "path") if path.get("class") == "line"]
    return [[tuple(map(float, place.split(","))) for place in path[1:].split("L")] for path in paths]


def test_a_line_goes_where_its_points_are():
    (places,) = line_places(line_chart("loss", {"": [(0, 0.0), (50, 1.0), (100, 0.5)]}, is_share=True))
    (left, low), (middle, high), (right, half) = places
    assert middle - left == right - middle > 100
    assert high < half < low
    assert half == pytest.approx((high + low) / 2, abs=1.0)


def test_one_point_is_a_dot_beside_lines_and_no_picture_alone():
    picture = line_chart("t", {"a": [(5, 1.0)], "b": [(0, 1.0), (9, 2.0)]})
    assert (len(elements(picture, "circle")), len(elements(picture, "text")[-2:])) == (1, 2)
    assert line_chart("t", {"": [(5, 1.0)]}) == line_chart("t", {"": [], "b": ()}) == ""


@each("points", [[(0, 0.0), (1, 0.0)], [(0, -3.0), (9, -3.0)], [(1, 1e-9), (2, 1e9)]])
def test_any_values_have_a_picture(points):
    assert elements(line_chart("t", {"": points}), "text")


def test_names_are_no_markup():
    picture = line_chart("<b>&", {"<i>": [(0, 1), (1, 2)], '"': [(0, 1), (1, 2)]})
    assert elements(picture, "text")[0].text == "<b>&"
    assert ElementTree.fromstring(picture).get("aria-label") == "<b>&"
