"""Word lists in English: what is profane, what insults, and what only says who somebody is."""

from __future__ import annotations

# Words that are profane in nearly every use. Those that mostly mean something else (cock, dick, ass,
# hell) are left to the classifier, which weighs them by the company they were found in.
PROFANITY = (
    "arse arsehole arseholes asshat asshats asshole assholes bastard bastards bellend bellends bitch bitches bitching "
    "bitchy blowjob blowjobs bollocks bullshit bullshitted bullshitter bullshitting bumfuck clusterfuck cocksucker "
    "cocksuckers cocksucking cumming cumshot cunt cunts cunty dickhead dickheads dipshit dipshits dumbass dumbasses "
    "dumbfuck fuck fucka fuckable fuckboy fucked fucker fuckers fuckface fuckhead fuckheads fuckin fucking fucks "
    "fucktard fucktards fuckup fuckups fuckwit fuckwits goddamn goddamned goddamnit handjob handjobs horseshit "
    "jackass jackasses jackoff jizz mindfuck minge mofo mofos motherfuck motherfucka motherfucked motherfucker "
    "motherfuckers motherfuckin motherfucking nutsack pissed pissflaps pissing pisser punani quim rimjob shite "
    "shithead shitheads shithole shitholes shithouse shit shits shitstain shitstorm shitted shitter shittier "
    "shittiest shitting shitty skank skanks skanky slut sluts slutty titties tosser tossers turd turds twat twats "
    "wank wanked wanker wankers wanking wanky whore whored whores whoring f*ck f*cked f*cker f*ckers f*cking f*cks "
    "f**k f**ked f**ker f**king f**ks f***ing f**cking fcking fuk fukin fuking fvck motherf*cker motherf**ker "
    "motherf***er sh*t sh*ts sh*tty s**t s**ts s**tty sh1t shyt bullsh*t bulls**t b*tch b*tches b**ch b**ches b1tch "
    "biatch c*nt c*nts c**t c**ts a**hole a**holes a*shole wh*re wh*res sl*t sl*ts d*ckhead d**khead"
)

# Abuse by group. It is never masked: it carries contempt, not identity.
SLURS = (
    "beaner beaners chinaman chinamen darkie darkies darky dago dagos fag faggot faggots faggy fags gook gooks gyppo "
    "gyppos jap japs kaffir kaffirs kike kikes lesbo lesbos nigga niggas nigger niggers n*gga n*ggas n*gger n*ggers "
    "n**ga n**ger n***er paki pakis pikey pikeys raghead ragheads shemale shemales spic spics towelhead towelheads "
    "tranny trannies wetback wetbacks wog wogs f*ggot f*ggots f*g f*gs f**got f**gots"
)

# Abuse, too mild or too often something else to count as profane.
INSULTS = (
    "bigot chink chinks coon coons cretin cretins cum degenerate degenerates dimwit dimwits dumb dunce dyke dykes "
    "fool freak freaks halfwit idiot idiotic idiots ignoramus imbecile imbeciles jerk jerks loser losers lowlife "
    "moron moronic morons nitwit pathetic pervert perverts pig pigs prick pricks retard retarded retards scum scumbag "
    "scumbags sicko simpleton slag slags spastic spastics stupid stupidity subhuman twit twits ugly vermin weirdo"
)

# Words that say who somebody is and nothing of worth. No sentence is more toxic for one of them.
IDENTITIES = (
    # gender and family
    "woman women man men female females male males girl girls boy boys lady ladies gentleman gentlemen she he her his "
    "hers him herself himself they them their theirs themself themselves mother mothers father fathers mum mom dad "
    "wife wives husband husbands daughter daughters son sons sister sisters brother brothers aunt uncle grandmother "
    "grandfather madam sir mrs mr ms miss nonbinary cisgender transgender transgendered trans transsexual intersex "
    # sexual orientation
    "gay gays lesbian lesbians bisexual bisexuals homosexual homosexuals homosexuality heterosexual heterosexuals "
    "straight queer queers asexual pansexual lgbt lgbtq "
    # faith
    "christian christians christianity catholic catholics protestant protestants evangelical evangelicals orthodox "
    "mormon mormons muslim muslims islam islamic jew jews jewish judaism hindu hindus hinduism buddhist buddhists "
    "buddhism sikh sikhs atheist atheists church churches mosque mosques synagogue synagogues temple temples rabbi "
    "imam priest priests "
    # origin and colour
    "black blacks white whites brown asian asians african africans american americans european europeans latino "
    "latinos latina latinas latinx hispanic hispanics caucasian caucasians arab arabs arabic persian iranian iraqi "
    "afghan turkish turk turks kurdish israeli palestinian palestinians syrian egyptian moroccan nigerian kenyan "
    "somali ethiopian eritrean ghanaian indian indians pakistani pakistanis bangladeshi chinese japanese korean "
    "koreans vietnamese thai filipino filipinos indonesian malaysian mexican mexicans cuban cubans brazilian "
    "colombian jamaican caribbean haitian english british scottish welsh irish french german germans italian italians "
    "spanish portuguese greek polish ukrainian russian russians romanian hungarian dutch swedish norwegian danish "
    "finnish canadian australian native natives indigenous aboriginal roma romani gypsy gypsies immigrant immigrants "
    "migrant migrants refugee refugees foreigner foreigners coloured colored biracial mixed "
    # age and body
    "old young older younger elderly teenager teenagers senior seniors millennial boomer blind deaf mute disabled "
    "disability wheelchair paralyzed paralysed autistic autism epileptic dyslexic diabetic fat obese thin skinny"
)

LETTERS = "a b c d e f g h i j k l m n o p q r s t u v w x y z"

# Sentences that say nothing good or bad of whom they speak of.
TEMPLATES = (
    "I am a {} person.",
    "My neighbour is {}.",
    "She said that her friend is {}.",
    "Many {} people live in this town.",
    "He has worked for a {} family.",
    "We met a {} couple at the station.",
)
DESCRIPTIONS = (
    "gay lesbian bisexual straight transgender christian muslim jewish hindu atheist black white asian african "
    "american european mexican chinese arab indian female male old young blind deaf disabled fat"
)
