"""Vocabulary of the mini profile: topics, values, people and sentence frames.

Invariant: every value is a single word and belongs to exactly one topic, so a question about a topic has one
answer in a history, and its distractors are other values of the same topic. Frames never say "I like": a task
reveals a preference in passing.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """One topic of preferences. `doing` contains `{}` for the value; `query` names the topic but no value."""

    name: str
    doing: str
    query: str
    values: tuple[str, ...]
    pref_type: str = "neutral_preferences"

    def with_value(self, value: str) -> str:
        """`doing` with the value filled in, such as "listening to jazz"."""
        return self.doing.format(value)


def _topic(name: str, doing: str, query: str, values: str, pref_type: str = "neutral_preferences") -> Topic:
    return Topic(name, doing, query, tuple(values.split()), pref_type)


TOPICS: tuple[Topic, ...] = (
    _topic(
        "music",
        "listening to {}",
        "What music should I put on tonight?",
        "jazz rock opera folk techno blues reggae soul punk disco",
    ),
    _topic(
        "drinks",
        "drinking {}",
        "Which drinks should I order with my snack?",
        "coffee cocoa cider lemonade milk juice soda matcha tea kefir",
    ),
    _topic(
        "sports",
        "playing {}",
        "Which sports could I try this spring?",
        "tennis soccer hockey cricket rugby golf volleyball squash softball badminton",
    ),
    _topic(
        "fruit",
        "eating {}",
        "What fruit should I buy at the stand?",
        "mangoes pears plums grapes cherries kiwis figs melons peaches apples",
    ),
    _topic(
        "cooking",
        "cooking {} food",
        "What cooking could I try on Friday?",
        "Thai Greek Indian Mexican Korean French Italian Turkish Spanish Lebanese",
    ),
    _topic(
        "films",
        "watching {} films",
        "Which films could we see at the cinema?",
        "horror comedy western romance action mystery war fantasy crime silent",
    ),
    _topic(
        "books",
        "reading {}",
        "Which books should I borrow from the library?",
        "poems novels memoirs thrillers comics essays biographies sagas fables plays",
    ),
    _topic(
        "crafts",
        "doing {}",
        "Which crafts workshop should I sign up for?",
        "pottery origami sewing carving embroidery painting calligraphy weaving knitting quilting",
    ),
    _topic(
        "pets",
        "caring for {}",
        "Which pets could I help at the shelter?",
        "cats dogs rabbits parrots hamsters turtles ferrets goldfish lizards pigeons",
    ),
    _topic(
        "gardening",
        "growing {}",
        "What gardening could I do by the window?",
        "roses tulips lilies daisies orchids violets poppies irises peonies dahlias",
    ),
    _topic(
        "instruments",
        "practising the {}",
        "Which instruments lesson should I book next month?",
        "piano violin guitar flute drums cello trumpet harp banjo clarinet",
    ),
    _topic(
        "travel",
        "visiting {}",
        "What travel should I plan for next summer?",
        "lakes castles deserts islands museums temples caves markets volcanoes harbors",
    ),
    _topic(
        "dancing",
        "dancing the {}",
        "Which dancing class fits my Monday evening?",
        "salsa tango waltz ballet samba foxtrot rumba polka flamenco bolero",
    ),
    _topic(
        "languages",
        "learning {}",
        "Which languages course should I take?",
        "Danish Arabic Hindi Polish Welsh Dutch Finnish Swahili Czech Latin",
    ),
    _topic(
        "games",
        "solving {}",
        "What games could I take on a long flight?",
        "crosswords sudokus riddles jigsaws mazes anagrams ciphers tangrams rebuses quizzes",
    ),
    _topic(
        "transport",
        "going by {}",
        "Which transport should I take to the coast?",
        "train bus bike ferry tram scooter canoe taxi car horse",
    ),
    _topic(
        "baking",
        "baking {}",
        "What baking should I bring to the party?",
        "brownies pies muffins scones cookies waffles donuts tarts eclairs pretzels",
    ),
    _topic(
        "exercise",
        "training {}",
        "Which exercise could I do at the gym today?",
        "yoga pilates boxing karate judo fencing rowing climbing archery wrestling",
    ),
    _topic(
        "nature",
        "studying {}",
        "Which nature talk should I attend at the museum?",
        "planets fossils crystals insects storms whales mosses comets bats eagles",
    ),
    _topic(
        "health",
        "living with {}",
        "What health question should I bring to the new doctor?",
        "asthma migraines eczema insomnia anemia vertigo arthritis diabetes allergies tinnitus",
        "health_and_medical_conditions",
    ),
)

NAMES = (
    "Maya Liam Noor Otto Ines Kofi Lena Hugo Aiko Omar Vera Nils Rosa Ivan Tess Amir Joan Luis Nora Emil Zara"
    " Finn Ruth Sami Dina Karl Mina Theo Yuki Paul Anya Rene Lola Idris Greta Marco Wanda Felix Priya Tomas"
).split()
OCCUPATIONS = (
    "teacher nurse driver farmer lawyer baker pilot clerk painter plumber singer dentist welder tailor chef"
).split()
RELATIVES = "sister brother uncle aunt neighbor boss cousin roommate".split()

# scenario -> frames; {doing} is the preference. The reply fits every frame of its scenario.
OWN_FRAMES: dict[str, tuple[str, ...]] = {
    "personal_email": (
        "Fix this email to my friend: I spent the weekend {doing} again.",
        "Shorten my email: sorry I missed you, I was busy {doing}.",
    ),
    "professional_email": (
        "Check this email to my client: I will reply after {doing} tonight.",
        "Make this email polite: I leave at five because I am {doing}.",
    ),
    "chat_message": (
        "Reword this message: come over later, I am {doing} now.",
        "Is this message fine? Back soon, still {doing}.",
    ),
    "social_media_post": (
        "Polish my post: nothing beats {doing} on a Sunday.",
        "Write a title for my post about {doing} all day.",
    ),
    "creative_writing": (
        "Continue my poem: the rain fell while I was {doing}.",
        "Give my diary page a better end: I fell asleep {doing}.",
    ),
    "professional_writing": (
        "Edit my short bio: after work I relax by {doing}.",
        "Improve this line of my report: I got the idea while {doing}.",
    ),
    "translation": (
        "Translate this for me: we had a great time {doing}.",
        "How do I say in another tongue: I am happy when {doing}?",
    ),
    "trouble_consult": (
        "I had a bad day and even {doing} did not help.",
        "I worry that {doing} takes all my free time.",
    ),
    "knowledge_query": (
        "How long do people need to get good at {doing}? I try every day.",
        "Why does {doing} calm me down so well?",
    ),
}
REPLIES: dict[str, tuple[str, ...]] = {
    "personal_email": ("Here is a warmer version.", "I fixed the email."),
    "professional_email": ("Here is a polite version.", "The email is fine now."),
    "chat_message": ("That reads well.", "I made it shorter."),
    "social_media_post": ("Here is a brighter post.", "I added a title."),
    "creative_writing": ("What a nice scene.", "I added two lines."),
    "professional_writing": ("This line is clearer now.", "I made it more formal."),
    "translation": ("Here is the translation.", "You can say it like this."),
    "trouble_consult": ("That sounds hard.", "Be kind to yourself."),
    "knowledge_query": ("It depends on the person.", "Nobody knows for sure."),
}
OTHER_FRAMES: dict[str, tuple[str, ...]] = {  # the owner comes right after the preference
    "personal_email": ("Fix this email: the weekend is for {doing}, not my plan but my {who}'s.",),
    "professional_email": (
        "Check this email to my client: the talk is about {doing}, not my topic but my {who}'s.",
    ),
    "chat_message": ("Reword this message: all the fuss is about {doing}, not by me but by my {who}.",),
    "social_media_post": ("Polish this post about {doing}, not for me but for my {who}.",),
    "creative_writing": ("Continue this poem: the rain fell on {doing}, not my dream but my {who}'s.",),
    "trouble_consult": ("I had a bad day because of {doing}, not my idea but my {who}'s.",),
    "translation": ("Translate this for me: the song is about {doing}, not about me but about my {who}.",),
}
MENTION_FRAMES: dict[str, str] = {  # a value that is mentioned but is nobody's preference
    "personal_email": "Fix this email: the film was about {doing}, not about me or a friend.",
    "professional_email": (
        "Check this email to my client: the slides show {doing}, not my topic but a stock photo."
    ),
    "chat_message": "Reword this message: the song is about {doing}, not by me but by a band.",
    "social_media_post": "Polish this post about {doing}, not for me but for a museum.",
    "creative_writing": "Continue this poem: a king dreamed of {doing}, not my dream but a king's.",
    "professional_writing": "Edit this report on {doing}, not my topic but the city's.",
    "translation": "Translate this for me: the play is about {doing}, not about me but about a queen.",
    "trouble_consult": "I had a bad day because of an advert for {doing}, not my idea but a shop's.",
    "knowledge_query": "Is there a book about {doing}, not for me but for a quiz?",
}
UPDATE_REPLIES = ("Good to know.", "Have fun with it.")
UPDATE_FRAMES = (
    "I gave up {old} and now I am always {new}.",
    "I am done with {old} and these days I am {new}.",
)
END_FRAMES = ("I gave up {old} and took up nothing else.", "I am done with {old} for good.")
FORGET_FRAMES = (
    "What I said about {doing}, forget it please.",
    "You know of me {doing}, forget that please.",
)
FILLER = (
    ("What is seven times eight?", "It is fifty six."),
    ("How many days has May?", "It has thirty one days."),
    ("Sort these words: pear, ant, moon.", "Ant, moon, pear."),
    ("What is the capital of Peru?", "It is Lima."),
    ("Why is the sky blue?", "Air scatters blue light most."),
    ("Fix this code: print(x", "Close the bracket: print(x)."),
    ("What is half of ninety?", "It is forty five."),
    ("How far is the moon?", "Very far from here."),
)

GENERIC_OPTION = "Something quite new."


def option(doing: str) -> str:
    """The text of an option that suggests a value, such as "Going by train."."""
    return doing[0].upper() + doing[1:] + "."
