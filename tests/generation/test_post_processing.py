"""Post-processing: each rule on lines as translators and their sources have them."""

import re

import pytest

from trine.generation.translation.post_processing import RULES, post_process


# Lines of the zh-en set, or parts of them, before a rule mended them, and after.
ENGLISH = [
    ("Enter  the\tname .", "Enter the name."),
    (
        "In the Navigator select the Insert as link drag mode .",
        "In the Navigator select the Insert as link drag mode.",
    ),
    ("10 : Light Green", "10: Light Green"),
    (
        "Switch between the Cup ( c ), Liter ( L ) or Quart ( qt ).",
        "Switch between the Cup (c), Liter (L) or Quart (qt).",
    ),
    ("Choose LibreOffice Basic,click the Organizer button", "Choose LibreOffice Basic, click the Organizer button"),
    ("Ｔｅｘｔ of ２ pages，then save。", "Text of 2 pages, then save."),
    ("a simple melody blaring from the loudspeakers.", "A simple melody blaring from the loudspeakers."),
    ('"i\'ve heard they know how to bring you back"', '"I\'ve heard they know how to bring you back"'),
    ("Position of the text. the cell is linked.", "Position of the text. The cell is linked."),
    ("cafe\u0301", "café"),
]
CHINESE = [
    ("自制 线圈枪 50发弹匣", "自制线圈枪 50发弹匣"),
    ("要在 JRE 中启用调试，请输入以下参数:", "要在 JRE 中启用调试，请输入以下参数："),
    ("在 C3 中输入开始日期, 在 D3  中输入工作日数。", "在 C3 中输入开始日期，在 D3 中输入工作日数。"),
    ("打开一个对话框, 您可以在其中指定公式表达式的名称.", "打开一个对话框，您可以在其中指定公式表达式的名称。"),
    ("「偏好设置」,在「可用语言模块」列表", "「偏好设置」，在「可用语言模块」列表"),
    ("图标来启动此模式。。", "图标来启动此模式。"),
    ("敌人的防御出现了漏洞。 +10% 钝击伤害。", "敌人的防御出现了漏洞。+10% 钝击伤害。"),
    ("啊 为啥?", "啊为啥？"),
    ("离队去伐木了...", "离队去伐木了……"),
    ("未知ＨＴＭＬ标签 １２ 个", "未知HTML标签 12 个"),
]
# What must stay as it is.
KEPT = {
    "en": [
        "An empty casing from a .38 Special round.",
        "To access this function...",
        "blank ( ) - allowed within a name",
        "broken wood wall",
        "SUM(A1;B2) is 3,14 at 10:30",
        "e.g. the i-th row of i = 3",
        '"This is all just a dream, right??!"',
        "iPhone and eBay are names",
    ],
    "zh": [
        "配置数据 (用于菜单命令)",
        "返回 URL 编码的字符串。",
        "木墙（破碎）",
        "储存大约 384 * 10^6 个bug。",
        "版本 3.5，比例 1:2，时间 10:30",
        "什么？呃，我是个理发师……我给人们理发。",
        "你感到一种强烈的刺激像电流一样流遍你的全身！！",
        "3. 第三步",
    ],
}


@pytest.mark.parametrize(("text", "expected"), ENGLISH)
def test_english(text, expected):
    assert post_process(text, "en") == expected


@pytest.mark.parametrize(("text", "expected"), CHINESE)
def test_chinese(text, expected):
    assert post_process(text, "zh") == expected


@pytest.mark.parametrize(("language", "text"), [(language, text) for language in KEPT for text in KEPT[language]])
def test_what_is_right_stays(language, text):
    assert post_process(text, language) == text


@pytest.mark.parametrize(("language", "cases"), [("en", ENGLISH), ("zh", CHINESE)])
def test_every_rule_is_needed_and_twice_is_once(language, cases):
    for rule in RULES[language]:
        assert any(rule(text) != text for text, _ in cases), rule.__name__
    assert all(post_process(expected, language) == expected for _, expected in cases)


def test_without_a_language_white_space_is_put_right():
    assert post_process("  好 ,\n a  b. ") == "好 , a b."


def test_unknown_language():
    with pytest.raises(ValueError, match=re.escape("language='fr' is not one of ['en', 'zh'], nor None")):
        post_process("texte", "fr")
