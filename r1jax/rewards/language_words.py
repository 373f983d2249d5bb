"""Common words of the languages in Latin script, the only statistics behind `rewards.language`.

The lists hold function words and words of reasoning, calculation and daily life, chosen by hand.
Letter statistics are computed from the same lists, so adding a list adds a language.
"""

WORDS: dict[str, frozenset[str]] = {name: frozenset(words.split()) for name, words in {
    'en': """
the of and to in is you that it he was for on are as with his they at be this have from or had by
but some what there we can out other were all your when up use how said an each she which do their
time if will way about many then them would like so these her long make see him two has more day
could go come did my no most who over know than first may down side been now find any new work part
take get place made where after back little only man year came show every good me give our under
very through just form much great think say help low line before turn cause same mean differ move
right old too does tell set three want well also play small end put home read hand large even such
here why ask went men need land different again off away must because should still next since
let's it's that's i'm don't doesn't didn't isn't can't won't there's we'll i'll he's she's what's
let us compute calculate calculation add added addition subtract subtracted multiply multiplied
divide divided division sum total difference product quotient remainder answer number numbers digit
digits value equal equals equation solve solved solution step steps result results therefore thus
hence wait however mistake check verify wrong correct retry error evaluate actually maybe perhaps
otherwise instead another both between half quarter third twice times double one four five six seven
eight nine ten eleven twelve twenty thirty forty fifty hundred thousand per percent cost costs price
money dollars cents pay paid buy bought sell sold earn earned spend spent save week weeks month
months years hours hour minutes days eat eats ate apples eggs friends children people water house
school bread give gives gave left remaining remain start starting finally problem question given
assume suppose follows means simply keep keeping keeps using used plus minus whole fraction points
word words sentence story write written letter world human beings born free equal rights nothing
something everything always never often today tomorrow yesterday together without within during
against while until being having doing going making getting looking thinking its into not
am hello sorry yes mine yours whom whose below above son sons daughter father mother brother sister
boy girl car cars bus train die dice hat hats war bin rest tag dies moment pro name names pan once
solo fin pour comment ton tons chose phrase grand pain premier ensemble minute person students
student class page table fruit orange place age possible simple message image important parent
parents animal animals hotel doctor color capital general normal popular natural ideal real control
central final original million millions film park team test text form system computer distance
surface volume angle base speed area length width height miles feet pounds dozen box boxes bag bags
bottle bottles book books shop store market party game games garden tree trees dog cat bird fish sun
moon star rain cake language model cannot unless whether nor upon themselves himself herself itself
pays rate service expression train million
gets got needs takes makes piece pieces slice slices gallon gallons inch inches pound quart liters
chair chairs tables horse horses ball balls banana bananas pizza pizzas candy gold silver green blue
white purple red black night second amount cubic multiplying adding dividing subtracting score mean
scores customer customers question questions vote votes altogether combined completed pencils pens
marbles object objects food gas wall window doors houses level seat paint finds wants
""",
    'de': """
der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden
aus er hat dass sie nach wird bei einer um am sind noch wie einem über einen so zum war haben nur
oder aber vor zur bis mehr durch man sein wurde sei prozent hatte kann gegen vom können schon wenn
habe seine ihre dann unter wir soll ich eines jahr zwei jahren diese dieser wieder keine uhr seiner
worden will zwischen immer was sagte gibt alle seit muss wurden beim doch jetzt drei weil dies
diesem diesen dieses jede jeder jedes jeden mein meine dein deine unser unsere ihr ihm ihn uns euch
du hier dort da nun also deshalb daher damit dadurch somit folglich zuerst danach schließlich
zunächst anschließend warte moment jedoch fehler prüfen prüfe überprüfen falsch richtig stimmt
eigentlich vielleicht sonst stattdessen beide hälfte viertel drittel doppelt mal plus minus geteilt
addieren addiert subtrahieren subtrahiert multiplizieren multipliziert dividieren dividiert summe
differenz produkt quotient rest antwort zahl zahlen ziffer ziffern wert gleich gleichung lösen
lösung schritt schritte ergebnis ergibt ergeben berechnen berechne berechnet rechnen rechne rechnung
gesamt insgesamt ein eins vier fünf sechs sieben acht neun zehn elf zwölf zwanzig dreißig hundert
tausend pro kostet kosten preis geld euro zahlt bezahlt kauft kaufen verkauft verdient spart tag
tage tagen woche wochen monat stunden stunde minuten isst äpfel eier freunde kinder menschen wasser
haus schule brot bleibt bleiben übrig beginnt anfang ende frage aufgabe gegeben angenommen bedeutet
heißt behalten wort wörter satz geschichte schreiben geschrieben buchstabe welt mensch geboren frei
rechte würde nichts etwas alles nie niemals oft heute morgen gestern zusammen ohne innerhalb während
machen macht gehen geht kommen kommt sehen sieht wissen weiß denken denkt nehmen nimmt geben lassen
lässt müssen sollen wollen möchte brauchen braucht wie viele viel wenig groß klein neu alt gut lange
kurz erste ersten zweite zweiten dritte letzte letzten nächste nächsten andere anderen große großen
kleinen ganz sehr genau einfach schnell durchschnitt ungefähr hinzu davon dazu darauf darin daraus
wobei welche welcher welches warum wer wo wann ob obwohl denn sondern sowie bereits jeweils
allerdings
hand land start total name namen test text team computer problem moment minute person personen
student million form system film park bus hotel doktor general normal original tor arm finger ring
wind gold ball ins ans aufs euer derselbe zwar eben etwa allein ebenso doppelt gramm meter liter
stück länge breite höhe fläche geschwindigkeit klasse lehrer schüler mutter vater bruder schwester
junge mädchen hund katze vogel fisch baum garten buch bücher kuchen stadt straße auto wagen farbe
sprache modell hallo danke bitte ja nein wäre hätte könnte sollte müsste konnte wollte
service image central ideal
""",
    'es': """
de la que el en y a los se del las un por con no una su para es al lo como más o pero sus le ha me
si sin sobre este ya entre cuando todo esta ser son dos también fue había era muy años hasta desde
está mi porque qué sólo solo han yo hay vez puede todos así nos ni parte tiene él uno donde bien
tiempo mismo ese ahora cada e vida otro después te otros aunque esa eso hace otra gobierno tan
durante siempre día tanto ella tres sí dijo sido gran país según menos mundo año antes estado quiere
mientras poco pocos ellos esto estos estas nuestro nuestra usted cómo cuánto cuántos cuántas cuál
quién entonces luego primero segundo tercero finalmente espera sin embargo error verificar verifico
comprobar comprobamos incorrecto correcto quizás tal vez ambos mitad cuarto tercio doble veces
dividido sumar sumamos suma restar restamos resta multiplicar multiplicamos dividir dividimos total
diferencia producto cociente resto respuesta número números cifra cifras dígito dígitos valor igual
ecuación resolver solución paso pasos resultado calcular calculamos calculo cálculo cuatro cinco
seis siete ocho nueve diez once doce veinte treinta cien ciento mil cuesta cuestan precio dinero
pesos euros paga pagar compra comprar vende vender gana ganar gasta ahorra días semana semanas mes
meses horas hora minutos come manzanas huevos amigos niños personas gente agua casa escuela pan
queda quedan quedar sobran empieza empezar fin pregunta problema dado dados supongamos significa
decir mantener palabra palabras frase historia escribir escrito letra seres humanos nacen libres
iguales derechos dignidad nada algo nunca menudo hoy mañana ayer juntos dentro fuera hacer haciendo
ir va vamos venir viene ver vemos saber sabe sabemos pensar piensa tomar dar da dejar deja deber
debe debemos necesita necesitamos podemos pueden tenemos tienen tenía estaba estaban será sería
mucho mucha muchos muchas grande pequeño pequeña nuevo nueva viejo bueno buena largo corto primera
segunda último última próximo demás aquí allí allá ahí pues por lo tanto ya que además aún todavía
casi cerca lejos cual cuales cuyo quien promedio aproximadamente obtener obtenemos queremos
encontrar
has he come use animal hotel doctor color capital general normal popular natural ideal real control
central final original parte longitud ancho altura área velocidad clase alumno alumnos madre padre
hermano hermana niño niña perro gato pájaro pez árbol jardín libro libros pastel ciudad calle coche
lengua modelo hola gracias hubo hemos han cualquier cualquiera ningún ninguna nadie algún alguna
algunos algunas ambas mediante hacia según contra bajo tras excepto acaso aquel aquella litro litros
metros gramos docena caja cajas bolsa bolsas botella tienda mercado fiesta juego millón
""",
    'fr': """
de la le et les des en un du une que est pour qui dans a par plus pas au sur ne se ce il sont avec
ou son aux elle ils nous vous on mais comme cette ces sa ses leur leurs tout tous toute toutes être
avoir fait faire été était avait ont sans peut peuvent deux trois même aussi bien très où quand si
donc alors ainsi puis ensuite après avant entre sous vers chez depuis pendant jusqu'à lorsque parce
car dont quel quelle quels quelles quoi comment combien pourquoi cela ceci ça c'est n'est qu'il
qu'elle qu'on qu'un d'un d'une l'on s'il j'ai il y l'eau l'autre l'homme l'année d'abord d'autres
d'où n'a s'est aujourd'hui je tu moi toi lui mon ma mes ton ta tes notre votre nos vos autre autres
chaque quelque quelques plusieurs beaucoup peu moins trop assez encore toujours jamais souvent déjà
rien ici là maintenant hier demain ensemble attendons attends cependant pourtant toutefois erreur
vérifier vérifions faux juste correct peut-être sinon plutôt moitié quart tiers double fois divisé
additionner additionnons addition soustraire soustrayons soustraction multiplier multiplions diviser
divisons division somme total différence produit quotient reste restent réponse nombre nombres
chiffre chiffres valeur égal égale égaux équation résoudre solution étape étapes résultat calculer
calculons calcul quatre cinq six sept huit neuf dix onze douze vingt trente cent mille coûte coûtent
prix argent euros paie payer achète acheter vend vendre gagne gagner dépense jour jours semaine
semaines mois an ans heures heure minutes mange pommes oeufs œufs amis enfants personnes gens maison
école pain début fin question problème donné donnée supposons signifie dire garder gardons mot mots
phrase histoire écrire écrit lettre monde êtres humains naissent libres droits dignité aller va vont
venir vient voir voyons savoir sait savons penser pense prendre prend donner donne laisser devoir
doit devons falloir faut besoin pouvons avons allons obtenons obtient trouver trouve cherchons veut
voulons grand grande petit petite nouveau nouvelle vieux bon bonne long première premier deuxième
dernier dernière prochain environ moyenne puisque tandis afin lors selon malgré contre hors près
loin presque celui celle ceux celles soit ni cet temps vie chose choses enfin également
place part cause large point points fraction fractions use page table fruit orange age possible
simple message image important parent parents animal animaux hôtel général normal original central
final distance surface volume angle base minute million millions pays film parc train bus test texte
service expression longueur largeur hauteur aire vitesse classe élève élèves mère père frère soeur
garçon fille chien chat oiseau poisson arbre jardin livre livres gâteau ville rue voiture couleur
langue modèle bonjour merci oui non serait aurait pourrait devrait seront auront étaient avaient
aucun aucune certains certaines même mêmes parmi voici voilà litre litres mètres grammes douzaine
boîte boîtes sac sacs bouteille magasin marché fête jeu jeux idéal
""",
}.items()}
