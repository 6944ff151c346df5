"""Queries as people get them wrong or say them elsewhere: seeded typos, and translations of our own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from darl_opensearch.io.digest import digest_data

LETTERS = "abcdefghijklmnopqrstuvwxyz"
RATE = 0.3  # of the words of four letters or more that get a typo; at least one of a query's does

# FeedbackQA questions in German, French and Spanish, ten each, translated for this benchmark; by the digest of the
# English question, which stays in its own data set.
SPOKEN_BY_DIGEST = {
    "9f2eec6a4fd1": "Wie können Lehrkräfte sich und ihre Schüler vor COVID-19 schützen?",
    "a5d07bc245df": "Was passiert beim Coronavirus-Test?",
    "48f8a56ef744": "Wie können sich Taxifahrer vor einer Ansteckung mit COVID-19 schützen?",
    "dcbe949af573": "Was kann man tun, um die Ausbreitung des Coronavirus zu stoppen?",
    "ecb475dc3680": "Können sich Kinderbetreuer an meinem Arbeitsplatz testen lassen?",
    "5544db740764": "Werden systemrelevante Beschäftigte in der Schule eingesetzt?",
    "fcc26e082973": "Müssen wir auch in einem Notfall Abstand halten?",
    "31385cd89e7a": "Wie bekommt man während COVID-19 ein Visum für Großbritannien?",
    "524c1c0eae2d": "Wann sagt man eine Veranstaltung wegen Corona am besten ab?",
    "4bc52daba13b": "Was soll ich tun, wenn ich das Coronavirus habe?",
    "5519e868f885": "Quelles mesures les usines doivent-elles prendre pour protéger leurs salariés à risque ?",
    "b0cbf2cedbda": "Je suis sans abri ; où puis-je me faire tester pour le Covid-19 ?",
    "77046f02192e": "Comment ma grossesse sera-t-elle suivie pendant la pandémie ?",
    "b9f08cf8a176": "Quelle aide existe-t-il en cas de problème avec la déclaration d'impôts ?",
    "fe0db342509d": "Si je pense avoir le COVID-19, quel type de test puis-je passer ?",
    "445f5d3f70a8": "Un laboratoire peut-il regrouper des échantillons pour dépister le COVID-19 ?",
    "902d4a1a60e7": "Comment garder propre mon restaurant qui livre à domicile ?",
    "c97cde53b06c": "Quand les travailleurs essentiels doivent-ils demander un test COVID-19 ?",
    "1ce85ebf192a": "Combien de temps les personnes vulnérables doivent-elles rester isolées ?",
    "d9696a8930a8": "Faut-il garder ses distances pendant un exercice d'incendie ?",
    "ca112169c8bb": "¿Quién puede recibir comida escolar gratuita y qué requisitos hay para solicitarla?",
    "16a124394d0b": "¿Qué deben hacer los laboratorios para conseguir el equipo de pruebas?",
    "4ccff696f88a": "¿Deben seguir abiertas las guarderías y cuál es su responsabilidad?",
    "b77298d2c043": "Después de recuperarme del coronavirus, ¿puedo contagiarme otra vez?",
    "671bfb932956": "¿Cómo debe comunicar una residencia los posibles contagios de COVID-19?",
    "95b4e02755c3": "¿Qué pasará con el personal que trabaja con niños?",
    "22fe66d2de15": "¿Debo publicar en el lugar de trabajo la evaluación de riesgos de la empresa?",
    "6b7c13a8f410": "¿Cuáles son las pautas para guardar la distancia en el trabajo?",
    "728b0dceed2f": "¿Y si me preocupa la salud de mi hijo?",
    "fa06d1f2757e": "¿Es más probable que las personas sin hogar contraigan el virus?",
}


def digest(query: str) -> str:
    """Name a query without quoting it.

    :param query: its text.
    :return: twelve hexadecimal digits.
    """
    return digest_data(query)[:12]


def misspelt(query: str, *, seed: int | Sequence[int]) -> str:
    """Put typos into a query: letters swapped, left out, doubled or replaced.

    :param query: its text.
    :param seed: of the draws.
    :return: the text with a typo in three of ten longer words, in one at least where there is one.
    """
    rng = np.random.default_rng(seed)
    words = query.split(" ")
    long = [i for i, word in enumerate(words) if len(word) >= 4]
    if not long:
        return query
    hit = [i for i in long if rng.random() < RATE] or [int(rng.choice(long))]
    for i in hit:
        words[i] = _misspell(words[i], rng)
    return " ".join(words)


def _misspell(word: str, rng: np.random.Generator) -> str:
    at = int(rng.integers(1, len(word) - 1))  # the first letter stays, as it mostly does
    kind = rng.integers(4)
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at + 1 :]
    if kind == 2:
        return word[:at] + word[at] + word[at:]
    return word[:at] + str(rng.choice(list(LETTERS))) + word[at + 1 :]
