"""The opinion words that `helpers.sentiment` knows: plain lists, easy to read and to extend.

Each line of a list is one word or phrase. In a phrase "_" stands for any one word and "~" for up
to three; words of the verb lists are matched in every form (drag, drags, dragged, dragging).
"""

from __future__ import annotations

STRONG, PLAIN, MILD = 1.0, 0.7, 0.4

POSITIVE = {
    STRONG: """
greatest awesome fave adore adored adores uproarious uproariously mesmerised bewitched astonish
astonished masterclass revelation feast highlight superb superbly brilliant brilliantly wonderful
wonderfully marvellous marvelous marvellously magnificent magnificently outstanding terrific
fantastic excellent excellently masterpiece masterpieces masterful masterly masterfully
breathtaking breathtakingly stunning stunningly gorgeous gorgeously glorious gloriously ravishing
spellbinding dazzling dazzlingly unforgettable exceptional exceptionally perfect perfectly
perfection sublime phenomenal astonishing astonishingly amazing amazingly incredible incredibly
extraordinary exquisite exquisitely flawless flawlessly genius triumph triumphs triumphant
enthralling exhilarating electrifying hilarious hilariously spectacular first-rate top-notch
mesmerising mesmerizing riveting fabulous splendid splendidly gem gems tour-de-force virtuoso
stellar faultless impeccable impeccably matchless peerless unmissable must-see fascinating
fascinatingly sparkling awe-inspiring jaw-dropping wondrous heavenly ace priceless
""",
    PLAIN: """
highly powerful powerfully underrated timeless realistic realistically crafted sweet sweetly
heartrending rare rarest unique favorites favourites intense memorable loves terrifically scariest
cheering treasures warmest kindest lump inspiring inspiringly grinned grinning beloved admirably
giggled giggling glee gleeful gleefully wept transfixed rapt enraptured spellbindingly smile
smiles hoot gusto brio panache aplomb magnetic hearty joyride gutsy sharpest thought-provoking
understated spirited bracing fitting affectionate affectionately lovingly heartbreaking
heartbreakingly overwhelming-in-joy brains human rounded credible sublimely enchants chuckle
chuckles ingenuity brilliance compassionate wisdom well-observed resonant resonates resonate
richer deeper affecting affectingly stylish stylishly hypnotically stirringly tenderness playful
playfully slick dynamite cracker belter corker stormer beguiling beguilingly bittersweet humbling
life-affirming feel-good unpretentious understatedly swoon swooned cherish cherished cherishes
good great fine lovely delightful delightfully charming charmingly impressive impressively
enjoyable engaging engagingly appealing rewarding accomplished refreshing refreshingly admirable
admirably pleasing beautiful beautifully elegant elegantly luminous painterly striking strikingly
witty wittily sharp eloquent eloquently quotable crackling gripping clever cleverly ingenious
ingeniously inventive inventively imaginative imaginatively original absorbing satisfying
satisfyingly moving movingly touching touchingly poignant poignantly uplifting heartwarming
heart-warming heartfelt convincing convincingly believable believably credible credibly nuanced
assured assuredly subtle subtly funny funnily funnier funniest droll inspired inspiring haunting
hauntingly memorable memorably evocative evocatively stirring likeable likable lovable loveable
sympathetic well-drawn complex magical magically enchanting enchantingly rich immersive authentic
authentically atmospheric confident confidently deft deftly graceful gracefully sensitive
sensitively bold boldly seamless seamlessly handsome handsomely best love loved loves loving joy
joyful joyous joyously delight delights delighted treat pleasure treasure charm charms grace
warmth tenderness tenderly beauty poetry poetic wit marvel marvels thrilling thrillingly exciting
suspenseful entertaining entertained hooked intelligent intelligently smart thoughtful
thoughtfully skilful skilfully skillful talented talent wise profound profoundly compelling
compellingly captivating irresistible delicious deliciously sparkle radiant radiantly vivid
vividly brave daring fresh winning superior remarkable remarkably strong strongly tender humane
honest
 truthful truthfully well-made well-acted well-written well-crafted well-judged
well-built well-paced well-observed well-cast finest praise praised recommend recommended
recommends happy grateful glad captivated moved enchanted mesmerised impressed thrilled charmed
spellbound laughed crisp taut tautly brisk briskly exuberant exuberantly infectious ambitious
dignity lyrical lyrically enthusiasm masterclass classic fun loveliest favourite favorite
effortless effortlessly immaculate immaculately sumptuous lavish lavishly lush opulent hypnotic
bewitching bewitchingly delicate delicately
 gifted gift chemistry bliss blissful winner nimble nimbly
impressing artful artfully ravished richly sparkled blessing kudos applause applauded superlative
sensational sensationally compassion compassionate compassionately
""",
    MILD: """
spare lean volumes brisker tact unfussy capable capably respectable serviceable likably decent
decently solid solidly competent competently nice nicely pleasant pleasantly watchable warm warmly
natural naturally lively livelier restrained coherent coherently plausible plausibly surprising
tuneful melodious sly slyly mischievous mischievously tightly unhurried earned generous generously
fluent fluently worthwhile amusing amusingly sincere sincerely well-meant handsome easygoing
breezy breezily agreeable agreeably interesting interestingly worthy quirky tidy smooth smoothly
polished reliable reliably sturdy gentle gently cosy endearing endearingly amiable amiably
cheerful cheerfully neat neatly eerie fair lucid lucidly economical economically careful carefully
precise promising enjoyed enjoy enjoying enjoys liked likes liking admire admired admires skill
skills courage magic depth rewarded affection smiling craft craftsmanship flair vivacity energy
verve zest freshness invention imagination originality intelligence wisdom subtlety elegance
humanity insight insights insightful merits merit strength strengths conviction welcome
""",
}

NEGATIVE = {
    STRONG: """
crap crappy dumb stupidity godawful abomination atrocity unwatchably robbed booed earplugs
tortures tortured disgraces disgraced preposterous preposterously horror horrific horrifically
unforgivable inexcusable cringy cringey barrel-scraping groaned groan ashamed appalled stinks
sickening dreck contempt unspeakable unspeakably terrible awful atrocious atrociously abysmal
abysmally appalling appallingly dreadful ghastly horrible horrid horrendous woeful woefully
pathetic pathetically hopeless hopelessly worst worthless rubbish garbage trash disaster
disastrous disastrously catastrophe disgrace disgraceful insufferable unbearable unbearably
unwatchable excruciating excruciatingly painful painfully interminable interminably endless
endlessly nonsensical incoherent incoherently laughable laughably ludicrous ludicrously inept
ineptly cringeworthy cringe cringed deafening depressing execrable vile lousy stinker travesty
trainwreck shambles fiasco idiotic idiotically moronic stupid stupidly torture torturous agony
insult insults insulting insultingly hideous hideously repulsive dire direly unendurable
embarrassment embarrassing embarrassingly junk drivel dross hate hated hates hating detest
detested loathe loathed despise despises despised infuriating shameful shamefully rotten useless
""",
    PLAIN: """
unfortunately ugh meh pitiful pitifully irritates bothered botch bungle insulted sugary smugness
irritated laboured cringes sigh sighed mould claptrap poppycock tired frustrated frustrating
frustratingly spoilt dreariness dullness leftover leftovers muddle shamed regrettably sadly
lurches saggy insufferably unpleasantness predictability pretension pretensions sickly thud yawns
overpraised deadly unlikeably bothersome crass cackhanded nauseating nauseous fatuous vacant
drippy convoluted jerky wordy tinny shabby shabbily stuffy stereotyped stereotypical stereotypes
boredom deadening deadeningly pompous pompously slogans winced corniest racket blunder oversight
limps panic gall posing desperate desperately colourless spineless irksome cloying mush smug
smugly humdrum lumpen sour-faced unfunnily vacuous hollow hollowly baffling bafflingly
incomprehensible pompously skimpy lackadaisical overwritten overloaded overstuffed bloated
creakily rehash retread knock-off cynical cynically botched bungled clunker stinkers snooze
snoozefest sleep-inducing soporific drearily preaching lectures sermons incompetently unbelievable
jaded-looking gibberish hokum letdown let-down bad badly poor poorly poorer poorest weak weakly
weakest dull dullest dully boring boringly bored bore bores disappointing disappointingly
disappointed disappointment disappointments tedious tediously tedium feeble feebly dismal dismally
lame lamely unimpressive dreary tiresome tiresomely sloppy sloppily lacklustre lackluster wooden
woodenly stilted unconvincing unconvincingly lifeless lifelessly mannered hammy forced amateurish
amateurishly amateur sluggish sluggishly slack plodding ponderous ponderously laboured clumsy
clumsily banal banality leaden corny trite intrusive intrusively bombastic syrupy forgettable
forgettably shrill shrilly monotonous monotonously drab ugly ugliest shaky muddy garish murky
shoddy shoddily cheap cheaply tacky rubbery dated abrupt abruptly sentimental rushed unsatisfying
silly unfunny crude crudely stale juvenile childish smutty shallow one-dimensional two-dimensional
unlikeable unlikable irritating irritatingly cardboard sterile artificial artificially bland
blandly phoney phony oppressive heavy-handed heavy-handedly pretentious pretentiously timid
timidly uninspired uninspiring careless carelessly predictable predictably confused confusing
confusingly contrived derivative threadbare implausible implausibly hackneyed far-fetched muddled
mess messy mistake mistakes fail failed fails failing failure failures flop flops flaw flaws
flawed clichéd clichés cliché cliches platitudes pointless pointlessly mindless mindlessly empty
soulless charmless joyless joylessly humourless humorless witless listless listlessly unoriginal
unimaginative unconvinced annoying annoyingly annoyed annoy annoys grating obnoxious preachy
self-indulgent overlong overblown overwrought overacted overrated miscast misjudged ill-judged
misguided waste wasted wastes wasting regret regretted regrettable lazy lazily tasteless vulgar
offensive nasty unpleasant unpleasantly ridiculous ridiculously absurdly inane vapid insipid soppy
mawkish maudlin saccharine schmaltzy worse yawn yawned yawning cheated puerile turgid stodgy soggy
limp limply toothless flat flatly flaccid faceless incompetent incompetently ham-fisted lumbering
slog chore ordeal trial nonsense senseless senselessly gimmicky tawdry tired wretched wretchedly
sour avoid shame fake inferior cross seasick headache despair miserable miserably misery
manipulative exploitative laborious laboriously wearisome wearying wearily exasperating dud turkey
tripe twaddle bilge tosh balderdash numbing mind-numbing mediocre mediocrity
""",
    MILD: """
pity unremarkably unengaging uninteresting uninvolving unmoving indulgent overlit underlit wrong
annoyance dreads thin thinly uneven unevenly underwhelming underwhelmed overbearing grainy slow
slight long-winded ordinary average routine so-so
 conventional formulaic patchy obvious repetitive meandering
rambling padded padding cold coldly distant remote messy cluttered clunky creaky wobbly wobbles
dim dingy indifferent indifferently unremarkable middling unfocused aimless aimlessly vague
vaguely underwritten underdeveloped undercooked half-baked half-hearted half-heartedly superficial
superficially glib pedestrian stagey stagy gloomy glum excessive excessively unnecessary
unnecessarily needless needlessly unclear unresolved dubious mumbles mumbled mumbling
 lacking mawkishness anodyne
ciphers puppets idiots gloomily dislike disliked dislikes dreaded
""",
}

# Matched in every form of the first word.
VERBS_POSITIVE = {
    STRONG: """
break your heart
take your breath away
win your heart
work wonders
light up
steal every scene
steal the show
steal the film
send shivers
cast a spell
move you to tears
move ~ to tears
roar with laughter
""",
    PLAIN: """
astonish
amaze
surprise and satisfy
say volumes
find fresh life
find unexpected life
spring more
spring one
bring warmth
bring real
bring dignity
bring life
warm the heart
warm the coldest
grow richer
grow deeper
grow before your
make simple sense
raise questions
raise ideas
raise a chuckle
waste not
fit the mood
have never been better
win you over
win me over
win us over
win over
shine
sparkle
soar
grip
captivate
enthral
delight
dazzle
mesmerise
thrill
impress
entertain
convince
enchant
amuse
crackle
glow
hold together
ring true
pay off
keep ~ guessing
reward
come alive
carry the ~ film
carry every scene
carry the weakest
fly by
deliver the goods
deliver a real
deliver on
land exactly
land every
land without
land more
surpass
excel
triumph
charm
disappear into
inhabit
draw you in
draw ~ viewer in
draw us in
draw anyone in
draw me in
bring out the best
treat us as adults
treat ~ with respect
make sense
make perfect sense
make complete sense
make you laugh
make me laugh
make us laugh
make the most of
bring ~ to life
stick the landing
bring it home
catch the light
catch every
catch the mood
stay with you
stay with me
linger in
cut deep
cut to the bone
do justice
please the eye
uplift
touch ~ heart
warm ~ heart
succeed
serve the
come from character
come from truth
raise a smile
grow on you
haunt
take risks
trust the audience
pass in a flash
enjoy myself
enjoy every
sound like real people
sound true
sound fresh
talk like human beings
talk the way
look entirely real
look worth
send you home happy
leave you smiling
leave me smiling
""",
    MILD: """
work beautifully
work perfectly
work wonderfully
work splendidly
work like a dream
work well
lift the
lift every
unfold
move along
fit each
fit the
fit perfectly
fit together
flow
leaven
add warmth
add depth
add mystery
keep things ~ moving
keep things ~ lively
keep the story ~ moving
keep the story ~ lively
build tension
build suspense
find truth
find humour
find tenderness
find beauty
hold the eye
hold the attention
hold attention
hold your attention
hold my attention
matter to us
balance
tie everything
tie the threads
earn
leave room
leave no time
feel real
feel alive
feel lived-in
feel like people
feel authentic
say more than
create a whole
create a convincing
turn a plain
understand these people
""",
}
VERBS_NEGATIVE = {
    STRONG: """
insult ~ intelligence
collapse
botch
bungle
sink the
sink every
hurt the eyes
hurt the ears
bore ~ to tears
bore ~ to death
betray
want my money back
want two hours
send you to sleep
send me to sleep
scrape the bottom
test ~ patience
try ~ patience
die on
infuriate
stink
suck
""",
    PLAIN: """
consist of
strain belief
strain credulity
borrow shamelessly
limp
lack depth
stop dead
have never been worse
lean on
let ~ down
crush
forget its own rules
forget half the cast
tread water
blare
stall
date the film badly
date the film cruelly
confuse
linger on every doorknob
counting the ceiling
planning my shopping
drag
bore
annoy
irritate
infuriate
fall apart
fall flat
fall short
ring false
sound false
make no sense
go nowhere
lead nowhere
run out of
creak
sag
crawl
outstay
overstay
misfire
fizzle
grate
clunk
drown
overdo
ruin
wreck
spoil
mar
smother
suffocate
stifle
squander
waste
lose its way
lose their way
lose the thread
lose interest
disappoint
flounder
founder
stumble
plod
wear thin
get on your nerves
get on my nerves
leave you cold
leave me cold
leave us cold
make you wince
make me wince
make you cringe
make you seasick
mumble
sleepwalk
cheat
duck
tell you what to feel
tell us what to feel
come out of nowhere
explain everything
explain nothing
mistake noise
mistake gloom
mistake length
distract
evaporate
bewilder
alienate
patronise
lecture
fail
lack
lack feeling
lack focus
lack warmth
lack courage
lack conviction
lack any
look bored
look lost
look embarrassed
look fake
look like cardboard
look cheap
sound like a manual
sound translated
miss the mark
miss the point
check the time
check my watch
look at my watch
scoff
shake my head
walk out
doze off
nod off
yawn
contradict
exhaust
weary
tire
pall
repeat what
resort to
""",
    MILD: """
wobble
hide more
hide the action
meander
ramble
struggle
remain cardboard
rely on
lean on
try too hard
""",
}

PHRASES_POSITIVE = {
    STRONG: """
work of genius
stroke of genius
tour de force
second to none
on the edge of my seat
on the edge of your seat
edge of my seat
walking on air
rarely been better
never been better
seldom been better
could not be better
can't be beaten
never seen ~ so beautiful
never seen ~ so lovely
not a dry eye
not to be missed
not miss
don't miss
not have missed
n't have missed
wouldn't have missed
foolish to miss
mad to miss
silly to miss
fool to miss
not swap
adore
adored
adores
cannot praise ~ enough
can't praise ~ enough
cannot praise ~ highly enough
cannot recommend ~ enough
cannot recommend ~ highly enough
cannot recommend ~ warmly enough
cannot recommend ~ strongly enough
can't recommend ~ enough
can't recommend ~ highly enough
can't recommend ~ warmly enough
can't recommend ~ strongly enough
best thing about
as good as anything
highly recommended
do not miss
would have been happy
nothing short of
""",
    PLAIN: """
top notch
well done
well written
well acted
well made
well crafted
well observed
far better
much better than
even better
better still
better than ever
better than most
all ages
all time
one of my favorite
one of my favourite
my favorite
my favourite
steals the
look forward
can't wait
can not wait
well worth
worth the
see this one
do see
please see
had a great time
had a good time
enjoyed myself
enjoyed every
glad i
glad to have
in stitches
made me cry
made me laugh
made me smile
make me cry
made us cry
made both of us cry
holding my breath
last scene alone
deserves to be better known
deserves to be
pleasure to spend
will not forget
won't forget
not forget
stay with it
stays with me
stay with me
thought of little else
not lose
i was wrong about it
work of art
of the year
hard to beat
in good company
better company
have been wrong
all my heart
with real
every line matters
do not be put off
don't be put off
believe the hype
best bits
best lines
best thing
this is why
every corridor
everything right
could not look
as good as they say
as good as you
gets better
comic gem
half the fun
worth the ticket
worth the wait
worth the price
thrilling ride
with affection
with wit
with brains
a feast
real care
feels right
seems right
so much wisdom
heard such wit
the best thing about
drawn with
faults and all
back on top
top form
treat for
and gladly
once more because
hear the theme once more
marvel of
keeps you up
roaring with laughter
seldom laughed so
says more than
said more than
very moving
understood in six
understood in one
pass like twenty
go by like twenty
deserves to be seen
deserves a wide
deserves a film
deserves every
in good hands
proud
happy to have
have thought of it with pleasure
go and see it in
see it in a cinema
see it in a theatre
see it with
see it on
see it twice
tell you to see
tell you to watch
see it before
and catch it
and watch it
and see it
go and see
earns its place
hard to fault
nothing is wasted
worth every
worth seeing
worth watching
worth quoting
worth writing
worth it
well worth
is worth
at its best
in a league
in another league
better in every way
holds up
lump in my throat
lump in the throat
dry eye
laughed out loud
laughed until i cried
laughed more than i have
wanting more
left me wanting more
more please
out to be a hit
see it again
watch it again
gladly see
see it tonight
see it twice
do yourself a favour and see
do yourself a favour and watch
seen nothing better
could have spent another
could have spent ten
rewards patience
a stroke of luck
well spent
good use
real people
true to life
like a glove
cared deeply
cared about
i cared
you care
we care
root for them
room to breathe
room for the characters
no time to get bored
before you know it
in a flash
a lot of heart
has heart
real heart
full of heart
with heart
full of life
full of surprises
deserves every
deserves ~ praise
deserves ~ prize
deserves ~ award
deserves ~ attention
deserve the largest
deserve to become
knows exactly what
knows when to
knows how to
has a wonderful ear
has a fine ear
has a good ear
has an ear for
has an eye for
has a ~ eye for
has a gift
fine eye
sure hand
master's hand
light touch
so vivid
with style
in style
with love
with care
with ease
with skill
goes straight to the heart
right note
right notes
exactly right
just right
spot on
is fair
on every promise
so much more than
the goods
a real punch
no complaints
never puts a foot wrong
never put a foot wrong
won over
won me over
wins you over
win you over
won us over
to dislike and failed
find fault and failed
scoff and stayed
sneer and stayed
mock and stayed
stayed to
stayed to weep
sorry when ~ over
sorry when it ended
forgot the rain
forgot the time
forgot my cold
forgot my
my only complaint
only complaint is
only objection is
only regret is
nothing to dislike
find fault
to find fault
sorry when the lights came up
sorry to see it end
sorry it ended
did not want ~ to end
didn't want ~ to end
did not want to leave
didn't want to leave
forgot that i was sitting
forgot the time
stayed to cheer
not an ounce of fat
without a loose thread
would follow
thumbs up
high point
high points
a must
in its own right
comic gem
half the fun
so funny
one of the best
of the year
cinch
speechless with
couldn't look away
could not look away
held my breath
gave me goosebumps
goosebumps
tears in my eyes
moved to tears
highest praise
wanted to write down
bought the soundtrack
ordered the soundtrack
humming the theme
humming the main tune
you believe every
you believe in
you can almost
so moved
could hang in a gallery
pleasure to look at
shivers down
tell half the story
bigger than its budget
a class of its own
on top form
takes flight
hits home
hits the mark
hits the spot
time well spent
flew by
went by in a flash
ask for more
asked for more
stands out
stand out
stood out
sends you out
""",
    MILD: """
no regrets
is planted with care
both surprising and fair
never cheats
no fuss
has its moments
nothing wrong with
not bad
not half bad
nothing to complain
easy to like
hard to resist
hard not to
could do worse
on the mark
ends on a
ends exactly when
ends exactly as
as long as it needs
lovely to
gives ~ depth
gives ~ charm
some charm
laid bare
more invention
more imagination
rare skill
with taste
well enough
""",
}
PHRASES_NEGATIVE = {
    STRONG: """
stay away
never again
stay at home
steer clear
a waste of
out-acted by
two hours of my life
hours of my life
money back
my money back
never get back
like pulling teeth
at all costs
if you paid me
not if you paid me
cover my ears
not for money
beyond redemption
beyond words bad
want to scream
ten-foot pole
fall off a cliff
nothing to like
no redeeming
without merit
no merit
amateur hour
cure for insomnia
prison sentence
""",
    PLAIN: """
piece of crap
redeeming
no plot
excuse for
a joke
sad excuse
so-called
what the hell
sat through
bunch of
how not to
none of these
none of this works
could not wait
couldn't wait
didn't care
did not care
felt nothing
feel nothing
felt robbed
left before the end
walked out of
had had enough
had enough
better off
better film
better films
better things
better than this
do a lot better
lets the film down
let the film down
let down by
lets it down
lets itself down
nothing happens
nothing is at stake
never comes together
not come together
wanted to love
wanted to like
wanted to enjoy
want to like
went wrong
go wrong
goes wrong
wrong key
in trouble
very pleased with
pleased with itself
in the worst
stopped listening
stopped caring
stop caring
lost me
loses me
nearly lost me
given up on
gave up on
thin story
too dark
read the novel
read the book instead
life is short
life is too short
that is all
has nothing to say
little to say
no reason
no plot
no story
no spark between
no point
no excuse
no fun
no laughs
not funny
not a single
no attempt
no sense
nowhere to go
low budget
so dull
second-rate
third-rate
guessed the secret
guessed the outcome
guessed the culprit
two smiles
feels wrong
feel wrong
heavy hand
stops dead
when wit runs out
no suspense
more suspense
felt more tension
escape the theme
tin ear for
like a weather report
mistake for
rough draft
the worst thing about
tell one ~ from another
nothing in it but
with a straight face
in good conscience
back to sleep
gave up
cannot forgive
cannot excuse
cannot defend
whatever the script had
until you dread
it back
and skip it
and avoid it
and stay away
always a bad sign
always a terrible sign
ten-year-old video game
hose
begin too early
more narrative drive
could have been solved with one
worn out
like a bad cook
oil and water
obvious after
obvious from
is obvious
holes in the plot
plot holes
gaps in the logic
guessed the
saw ~ coming
see ~ coming
stitched together
tired clichés
walking cliché
a walking
leftovers
serve no purpose
serves no purpose
no purpose
no idea
nobody cared
no one cared
given up
reading from a card
one expression
at a stately pace
coat stand
did not believe
didn't believe
do not believe in
not believe a
no spark
any spark
no chemistry
no tension
no sense of
no personality
feel like hours
feel like four hours
feel like a week
feel like a prison
feels like hours
fell asleep
nearly fell asleep
looked at my watch
checked the time
cut half an hour
half an hour too long
hour too long
too long
too many of them
far too
goes on too long
goes on for ever
goes on forever
sharper with the scissors
lands with a thud
with a thud
committee wrote
as if a committee
tin ear
wince
better lines on
better films
nobody has ever talked
nobody talks like
like actors in an advertisement
announce their feelings
school play
soap opera
to death
translated twice
from a manual
as if we were children
as if we were idiots
sledgehammer
by the drumbeat
asleep at
in syrup
too dark
shot through a
on a broken phone
look away
feel ill
shame a
shame a car park
zip on the costume
see the strings
see the edge
where the ideas should
instead of ideas
noise and nothing
like cardboard
damp firework
shaking my head
feeling cheated
what little was left
as if the film had run out
nobody ~ laughed
no one laughed
nobody laughed
out of pity
very little worth
little worth seeing
little to enjoy
nobody seems to
mislaid the scissors
forgot to cut
indifference
laughed more at
older than i am
wears out its welcome
wear out its welcome
outstay its welcome
not have cared less
n't have cared less
could not care less
couldn't care less
couldn't have cared less
care less
nobody to like
nobody to root
no one to root
no one to like
like idiots
mere clichés
no human being
never rises above
never rise above
never gets going
never takes off
more tension in a
more tension waiting
too clean to be
might as well be a car
might as well be anywhere
second-hand
in no way
bottom of the barrel
not trust
nobody was in charge
takes no risks
take no risks
no fresh idea
no original idea
nothing new
never been worse
laughed so little
laughed so seldom
never puts a foot right
never put a foot right
not fit to
heard it all before
seen it all before
seen it before
nothing to offer
going through the motions
go through the motions
goes through the motions
by the numbers
paint by numbers
watching paint dry
miss it
skip it
give it a miss
don't bother
do not bother
not bother
save your money
save yourself
look elsewhere
nothing to write home
waste of time
waste of money
not worth
not recommended
nothing to recommend
no praise
my only pleasure
only pleasure was
glad when ~ over
glad when the lights came up
glad when it
relieved when
stayed to yawn
stayed to sneer
stayed to doze
to like and failed
to enjoy it and failed
never forgot the rain
never forgot my
never forgot the time
glad when it ended
against the clock
read a book instead
wash the dog
happily have missed
gladly have missed
have gladly missed
happily missed
mad to pay
foolish to pay
silly to pay
gladly swap
not deserve
rather have stayed
never forgot that i was sitting
wanting less
warn you
beware
left me cold
shot in the foot
what were they thinking
what was ~ thinking
out of ideas
out of steam
paper-thin
wafer-thin
skin-deep
thumbs down
low point
on autopilot
phoned in
phones it in
phoning it in
one-note
off the mark
wide of the mark
flat as a
fit to carry
student film
amateur work
is a trial
a chore
hard work
hard to sit through
not sit through
hard to care
hard to watch
hard to follow
hard to sit through
painful to sit through
suffer through
get through it
left early
walked out
the exit
the door handle
on its knees
""",
    MILD: """
could be better
could have been better
should have been better
might have been better
nothing special
room for improvement
one twist too many
neither here nor there
not enough
too little
too much
too many
too loud
too slow
too clever for
too pleased with
too neat
does not add up
doesn't add up
left me wanting
so what
who cares
""",
}

# Phrases that look like opinions and are none: they take their words out of play.
NEUTRAL = """
at no point
sat through the credits
dragged my feet
drag my feet
flat tyre
one flat
a flat
the flat
sleepy flat
flat where
who is rich
like most
who likes
who like
not lost
new york
highly paid
first rate
would like to
would like
like to see
like a
like an
like the
like that
like this
like it was
liked best
it was like
disaster film
disaster films
disaster movie
half empty
to spare
horror film
horror films
horror movie
human heart
human being
human beings
a cold
my cold
tired viewer
jaded viewer
grumpiest viewer
loyal fan
film school
at great length
great length
old formula
worn-out genre
wooden spoon
old hands
hard to please
easy to please
bad weather
worse neighbours
first love
lost child
lost war
lost a war
lost a glove
lost a letter
tired mule
tired uncle
asleep
of the best lines
car park
waiting room
for mercy
at the worst moments
worst moments
at worst
at best
people who hate
people who love
those who hate
those who love
fans who love
who love
who loves a good
who hate
who loved
bad cook
better known
better acquainted
fun to say
smiling down
best lines
best scene
dead silence
big moment
a good deal
good evening
good morning
good night
good while
a great deal
a great many
great aunt
no sound
sound of
sound design
sound effects
sounds like
sound as if
fine art
special effects
well known
best friend
best man
best seller
so far
at least
at last
last act
second act
fun fair
lost property
lost his
lost her
lost their
my favourite podcast
fair enough
at work
to work
works in
works as
working in
work in
work on
works for
of work
my work
her work
his work
smart phone
cold beer
love story
love stories
love affair
fall in love
falls in love
fell in love
falling in love
in love
first love
true love
love of
someone you love
love letter
fine day
the worst of
poor man
poor woman
slow motion
with conviction
by the way
the other day
lost a letter
on a cold
cross the
i did not think anything could be worse than
think anything could be worse
""".strip().splitlines()

ADVERBS_UP = set(
    "very really truly utterly extremely deeply thoroughly absolutely incredibly remarkably so "
    "positively decidedly downright completely totally wonderfully terribly immensely hugely "
    "consistently exceptionally unbelievably genuinely always seriously insanely such".split()
)
ADVERBS_DOWN = set(
    "quite rather fairly somewhat slightly mostly sometimes occasionally a-bit partly nearly "
    "almost reasonably moderately mildly often passably vaguely relatively perhaps".split()
)
# Word → how many words further on it may still turn an opinion.
NEGATORS = {
    "not": 7,
    "never": 7,
    "no": 4,
    "hardly": 5,
    "scarcely": 5,
    "barely": 5,
    "rarely": 5,
    "seldom": 5,
    "nothing": 5,
    "nobody": 6,
    "none": 6,
    "neither": 4,
    "nor": 6,
    "without": 4,
    "cannot": 7,
    "lack": 3,
    "lacks": 3,
    "lacking": 3,
    "lacked": 3,
    "refuse": 4,
    "refuses": 4,
    "refused": 4,
    "fail": 3,
    "fails": 3,
    "failed": 3,
    "avoids": 3,
    "avoid": 3,
    "n't": 7,
    "nowhere": 4,
    "stops": 2,
    "isnt": 6,
    "dont": 6,
    "doesnt": 6,
    "wasnt": 6,
    "didnt": 6,
    "cant": 6,
    "least": 2,
    "resists": 3,
    "resist": 3,
    "escapes": 3,
}

# Nouns that are not the film: opinions about them do not count.
OTHER_THINGS = set(
    """
popcorn crisps nachos pizza pasta curry dinner supper lunch breakfast coffee tea beer wine ice-cream
sandwich sandwiches soup meal restaurant snack snacks cake seat seats chair chairs armchair
sofa cushion cushions bus train tram taxi flight airline ferry journey traffic weather evening
night afternoon morning rain snow cold cough flu toothache appetite scarf headache fever hotel
bakery organ curtain curtains foyer carpet cinema queue ticket tickets parking heating subtitles
air-conditioning projector holiday weekend week month summer winter birthday party secret secrets
murder crime debt war marriage divorce accident illness inheritance dog cat horse umbrella shoes
coat hat jumper meeting office job exam haircut football match bathroom toilet toilets escalator
lift smell perfume bicycle car motorbike radio village bargain lie promise temper dream wound
""".split()
)
# People in a story or in the row behind: "a brilliant surgeon" is no opinion about the film, while
# "the surgeon is a joy" is one about a character.
OTHER_PEOPLE = set(
    """
surgeon locksmith violinist driver detective widow smuggler schoolteacher teacher beekeeper
clockmaker journalist priest boxer accountant ferryman botanist player translator soldier nun
magician plumber pilot photographer baker thief keeper gardener judge cellist miner nurse poet spy
waitress farmer postman tailor astronomer sculptor admiral archivist auctioneer ballerina barber
bookseller butcher cartographer chemist coachman cobbler conductor constable diver diplomat
embalmer falconer florist forger gambler geologist governess harpist herbalist hypnotist innkeeper
janitor jeweller juggler librarian mathematician midwife milliner monk optician organist pawnbroker
puppeteer ranger sailor seamstress shepherd signalman stuntman tattooist undertaker ventriloquist
veterinarian watchmaker weaver wrestler zookeeper apothecary bell-ringer sweep master tamer
watchman tuner neighbour neighbours brother sister aunt uncle cousin colleague colleagues boss
dentist doctor grandmother grandfather waiter usher housekeeper butler captain lawyer mayor chef
cook painter pianist singer dancer engineer carpenter fisherman clerk inspector duchess count baron
general colonel orphan twin twins stepmother stepfather landlord landlady lodger father mother
husband wife son daughter friend friends rival choir jury club soldier's teenager teenagers
people man woman boy girl king
queen prince princess family mother-in-law
""".split()
)

FUNCTION_WORDS = set(
    """
a an the this that these those my your his her its our their some any no every each all both
either neither much many more most few little less least several such what which who whom whose
i me you he him she it we us they them myself yourself himself herself itself ourselves themselves
one someone somebody anyone anybody everyone everybody nobody nothing something anything everything
there here where when why how is are was were be been being am do does did doing done have has had
having will would shall should can could may might must ought cannot don't doesn't didn't isn't
aren't wasn't weren't won't wouldn't can't couldn't i'm i've i'd it's that's there's he's she's
they're you're we're let's of in on at by for with from to into onto about over under after before
between through during without within against among around behind beside besides beyond above below
across along upon off out up down near until till since than as if and or but nor so yet because
although though while whereas unless whether not never ever just only even also too very quite
rather really again then now still already always often once twice soon well almost enough perhaps
indeed however instead like than else two three four five six seven eight nine ten first second
third last same other another own back away
""".split()
)

_IRREGULAR = {
    "be": ("is", "are", "was", "were", "been", "being"),
    "fall": ("fell", "fallen"),
    "make": ("made",),
    "lose": ("lost",),
    "go": ("went", "gone"),
    "run": ("ran",),
    "ring": ("rang", "rung"),
    "hold": ("held",),
    "keep": ("kept",),
    "steal": ("stole", "stolen"),
    "break": ("broke", "broken"),
    "win": ("won",),
    "take": ("took", "taken"),
    "come": ("came",),
    "light": ("lit",),
    "send": ("sent",),
    "fly": ("flew", "flown"),
    "shine": ("shone",),
    "leave": ("left",),
    "feel": ("felt",),
    "stick": ("stuck",),
    "bring": ("brought",),
    "catch": ("caught",),
    "draw": ("drew", "drawn"),
    "find": ("found",),
    "grow": ("grew", "grown"),
    "build": ("built",),
    "sink": ("sank", "sunk"),
    "overdo": ("overdid", "overdone"),
    "wear": ("wore", "worn"),
    "tell": ("told",),
    "do": ("did", "done"),
    "get": ("got",),
    "say": ("said",),
    "pay": ("paid",),
    "cut": (),
    "stink": ("stank",),
    "hide": ("hid", "hidden"),
    "understand": ("understood",),
    "give": ("gave", "given"),
    "lead": ("led",),
    "mistake": ("mistook", "mistaken"),
    "creep": ("crept",),
    "sleepwalk": ("sleepwalked",),
    "shake": ("shook", "shaken"),
    "cast": (),
    "hurt": (),
    "rely": ("relied",),
    "outstay": (),
    "lean": ("leant",),
    "spoil": ("spoilt",),
    "speak": ("spoke",),
    "rise": ("rose", "risen"),
    "drive": ("drove", "driven"),
    "pass": (),
    "stand": ("stood",),
    "weep": ("wept",),
    "tie": (),
    "die": (),
    "nod": (),
    "try": (),
}
_DOUBLE = {
    "drag",
    "sag",
    "grip",
    "plod",
    "nod",
    "mar",
    "get",
    "win",
    "cut",
    "run",
    "fit",
    "stick-up",
    "scrap",
    "stop",
    "let",
    "slip",
    "trip",
    "flop",
    "step",
    "pop",
    "hit",
    "enthral",
    "sit",
    "put",
}


def inflect(verb: str) -> set[str]:
    """All forms of an English verb: drag → drag, drags, dragged, dragging."""
    forms = {verb, *_IRREGULAR.get(verb, ())}
    if verb.endswith(("s", "x", "z", "ch", "sh", "o")):
        forms.add(verb + "es")
    elif verb.endswith("y") and verb[-2] not in "aeiou":
        forms |= {verb[:-1] + "ies", verb[:-1] + "ied"}
    else:
        forms.add(verb + "s")
    if verb in _DOUBLE:
        forms |= {verb + verb[-1] + "ed", verb + verb[-1] + "ing"}
    elif verb.endswith("ie"):
        forms |= {verb + "d", verb[:-2] + "ying"}
    elif verb.endswith("e") and not verb.endswith("ee"):
        forms |= {verb + "d", verb[:-1] + "ing"}
    else:
        forms |= {verb + "ing"}
        if not (verb.endswith("y") and verb[-2] not in "aeiou"):
            forms.add(verb + "ed")
    return forms


def build_lexicon() -> dict[tuple[str, str], float]:
    """(phrase, lemma) → signed strength, 0 for phrases that only look like opinions."""
    lexicon: dict[str, tuple[str, float]] = {}
    for sign, groups in ((1.0, POSITIVE), (-1.0, NEGATIVE)):
        for strength, words in groups.items():
            for word in words.split():
                lexicon.setdefault(word, (word, sign * strength))
    for sign, groups in ((1.0, VERBS_POSITIVE), (-1.0, VERBS_NEGATIVE)):
        for strength, lines in groups.items():
            for line in lines.strip().splitlines():
                verb, _, rest = line.partition(" ")
                for form in inflect(verb):
                    phrase = f"{form} {rest}".strip()
                    lexicon.setdefault(phrase, (line, sign * strength))
    for sign, groups in ((1.0, PHRASES_POSITIVE), (-1.0, PHRASES_NEGATIVE)):
        for strength, lines in groups.items():
            for line in lines.strip().splitlines():
                lexicon.setdefault(line, (line, sign * strength))
    for line in NEUTRAL:
        lexicon[line] = (line, 0.0)
    return {(phrase, lemma): value for phrase, (lemma, value) in lexicon.items()}
